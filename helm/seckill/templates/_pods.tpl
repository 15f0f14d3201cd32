{{/* The settings of the pods of one program: those of all programs, with its own. */}}
{{- define "seckill.pod" -}}
{{- $all := .root.Values -}}
{{- $own := get $all .component -}}
{{- $pod := dict -}}
{{- range $key := list "podLabels" "podAnnotations" "nodeSelector" "podSecurityContext" "containerSecurityContext" -}}
  {{- $merged := dict -}}
  {{- range $from := list $all $own -}}
    {{- range $name, $value := get $from $key | default dict }}{{ $_ := set $merged $name $value }}{{ end -}}
  {{- end -}}
  {{- $_ := set $pod $key $merged -}}
{{- end -}}
{{- range $label := keys (include "seckill.selector" . | fromYaml) | sortAlpha -}}
  {{- if hasKey $pod.podLabels $label }}{{ fail (printf "podLabels: the chart sets %s, by which it selects the pods: remove it" $label) }}{{ end -}}
{{- end -}}
{{- range $annotation := list "checksum/secrets" "checksum/issuers" -}}
  {{- if hasKey $pod.podAnnotations $annotation }}{{ fail (printf "podAnnotations: the chart sets %s: remove it" $annotation) }}{{ end -}}
{{- end -}}
{{- range $key := list "extraEnv" "extraEnvFrom" "extraVolumes" "extraVolumeMounts" "tolerations" -}}
  {{- $_ := set $pod $key (concat (get $all $key) (get $own $key | default list)) -}}
{{- end -}}
{{- range $key := list "priorityClassName" "affinity" "topologySpreadConstraints" -}}
  {{- $_ := set $pod $key (get (ternary $own $all (hasKey $own $key)) $key) -}}
{{- end -}}
{{ toYaml $pod }}
{{- end }}

{{/* A list of environment variables with unique names: a later one replaces an earlier one. */}}
{{- define "seckill.uniqueEnv" -}}
{{- $variables := dict -}}
{{- $names := list -}}
{{- range . -}}
  {{- $names = append $names .name -}}
  {{- $_ := set $variables .name . -}}
{{- end -}}
{{- range $names | uniq }}
{{ list (get $variables .) | toYaml }}
{{- end }}
{{- end }}

{{- define "seckill.imagePullSecrets" -}}
{{- $names := .Values.image.pullSecrets -}}
{{- range .Values.global.imagePullSecrets -}}
  {{- if kindIs "map" . }}{{ $names = append $names .name }}{{ else }}{{ $names = append $names . }}{{ end -}}
{{- end -}}
{{- with $names | uniq }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Spreads the pods of one program over nodes, as far as there are several. */}}
{{- define "seckill.spread" -}}
{{- $program := .program }}
{{- with .constraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ omit . "labelSelector" | toYaml | nindent 4 | trim }}
    labelSelector:
      {{- if .labelSelector }}
      {{- toYaml .labelSelector | nindent 6 }}
      {{- else }}
      matchLabels:
        {{- include "seckill.selector" $program | nindent 8 }}
      {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Prefers zones that have fewer pods of the same program. A cluster without zones ignores it. */}}
{{- define "seckill.zones" -}}
preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 100
    podAffinityTerm:
      topologyKey: topology.kubernetes.io/zone
      labelSelector:
        matchLabels:
          {{- include "seckill.selector" . | nindent 10 }}
{{- end }}

{{/* Live: the program answers. Ready: the program can work; otherwise the answer of /readyz names the missing dependency. */}}
{{- define "seckill.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: admin }
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: { path: /healthz, port: admin }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/*
The template of the pods of a program or of a Job: `root`, `component`, `container` (its name), `command`, `env`, for a
program `ports` and `terminationGracePeriodSeconds`, and for a Job perhaps `restartPolicy`. Perhaps `annotations`, `volumes` and
`volumeMounts` of the program itself.
*/}}
{{- define "seckill.podTemplate" -}}
{{- $root := .root -}}
{{- $own := get .root.Values .component -}}
{{- $pod := include "seckill.pod" . | fromYaml -}}
{{- $annotations := merge (deepCopy $pod.podAnnotations) (.annotations | default dict) -}}
{{- $tlsVolumes := include "seckill.tlsVolumes" .root | fromYamlArray -}}
{{- $tlsVolumeMounts := include "seckill.tlsVolumeMounts" .root | fromYamlArray -}}
{{- $volumes := concat (.volumes | default list) $tlsVolumes ($pod.extraVolumes | default list) -}}
{{- $volumeMounts := concat (.volumeMounts | default list) $tlsVolumeMounts ($pod.extraVolumeMounts | default list) -}}
{{- if and .ports .root.Values.spreadOverZones (not (hasKey $pod.affinity "podAntiAffinity")) -}}
  {{- $_ := set $pod.affinity "podAntiAffinity" (include "seckill.zones" . | fromYaml) -}}
{{- end -}}
{{- if .ports }}{{ $_ := set $annotations "checksum/secrets" (include "seckill.secretsChecksum" .root) }}{{ end -}}
metadata:
  labels:
    {{- include "seckill.selector" . | nindent 4 }}
    {{- with $pod.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "seckill.serviceAccount" . | quote }}
  enableServiceLinks: false
  # Only the operator uses the Kubernetes API.
  automountServiceAccountToken: {{ eq .component "operator" }}
  {{- with $pod.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- if .ports }}
  terminationGracePeriodSeconds: {{ .terminationGracePeriodSeconds }}
  {{- else }}
  restartPolicy: {{ .restartPolicy | default "OnFailure" }}
  {{- end }}
  {{- with $pod.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "seckill.imagePullSecrets" .root }}{{ trim . | nindent 2 }}{{ end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with get $pod $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if .ports }}
  {{- with include "seckill.spread" (dict "program" . "constraints" $pod.topologySpreadConstraints) }}{{ trim . | nindent 2 }}{{ end }}
  {{- end }}
  containers:
    - name: {{ .container }}
      image: {{ include "seckill.image" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: {{ .command }}
      env:
        {{- include "seckill.uniqueEnv" (concat (.env | fromYamlArray) ($pod.extraEnv | default list)) | trim | nindent 8 }}
      {{- with $pod.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .ports }}
      ports:
        {{- range $name, $port := . }}
        - { name: {{ $name }}, containerPort: {{ $port }} }
        {{- end }}
      {{- include "seckill.probes" $root | nindent 6 }}
      {{- end }}
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      {{- with $pod.containerSecurityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $volumeMounts }}
      volumeMounts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- with $volumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* The fields that the Deployments of all programs have. */}}
{{- define "seckill.deployment" -}}
revisionHistoryLimit: {{ .root.Values.revisionHistoryLimit }}
{{- with .root.Values.minReadySeconds }}
minReadySeconds: {{ . }}
{{- end }}
selector:
  matchLabels:
    {{- include "seckill.selector" . | nindent 4 }}
template:
  {{- include "seckill.podTemplate" . | nindent 2 }}
{{- end }}

{{- define "seckill.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "seckill.name" .root }}-{{ .component }}
  labels:
    {{- include "seckill.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  maxUnavailable: 1
  # A pod that is not ready does no work, so it must not block the drain of a node.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "seckill.selector" . | nindent 6 }}
{{- end }}
