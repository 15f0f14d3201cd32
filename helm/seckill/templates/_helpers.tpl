{{/*
Gives every value that is missing its default. Each template calls it first. Values are missing after `helm upgrade --reuse-values`: Helm
then takes the defaults of the chart that was installed before, not those of values.yaml here. files/defaults.yaml is a copy of values.yaml,
because a template can't read values.yaml.
*/}}
{{- define "seckill.defaults" -}}
{{- include "seckill.fill" (dict "values" .Values "defaults" (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- end }}
{{- define "seckill.fill" -}}
{{- /* A key that is missing in one of these was removed by `null`. */ -}}
{{- $whole := list "resources" "labels" "annotations" "serviceAnnotations" "podLabels" "podAnnotations" "nodeSelector" "affinity" "podSecurityContext" "containerSecurityContext" -}}
{{- range $key, $default := .defaults -}}
  {{- $value := get $.values $key -}}
  {{- if or (not (hasKey $.values $key)) (kindIs "invalid" $value) -}}
    {{- $_ := set $.values $key $default -}}
  {{- else if and (kindIs "map" $default) (kindIs "map" $value) (not (has $key $whole)) -}}
    {{- include "seckill.fill" (dict "values" $value "defaults" $default) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/*
Release "seckill" => "seckill"; release "shop" => "shop-seckill". A Service needs a DNS label that starts with a letter, and the name must fit
with the longest suffix. A name that was changed for this has a hash, so that two releases never get the same name.
*/}}
{{- define "seckill.name" -}}
{{- $chart := .Chart.Name -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- $name := regexReplaceAll "[^a-z0-9]+" (lower $full) "-" -}}
{{- if not (regexMatch "^[a-z]" $name) }}{{ $name = printf "release-%s" $name }}{{ end -}}
{{- if or (ne $name $full) (gt (len $name) 40) -}}
  {{- $name = printf "%s-%s" ($name | trunc 31 | trimSuffix "-") ($full | sha256sum | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* The labels that select the pods of one program. They must not change, because selectors of Deployments are immutable. */}}
{{- define "seckill.selector" -}}
{{ include "seckill.instance" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The labels that select the pods of all programs. The name of the chart is another one if an umbrella chart has an alias for it. */}}
{{- define "seckill.instance" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "seckill.labels" -}}
{{ include "seckill.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{/* The first part of a repository is a registry if it has a dot or a port, as in registry.example.com/shop/seckill. */}}
{{- define "seckill.image" -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.global.imageRegistry -}}
  {{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "seckill.serviceAccount" -}}
{{- $account := (get .root.Values .component).serviceAccount -}}
{{- $account.name | default (ternary (printf "%s-%s" (include "seckill.name" .root) .component) "default" $account.create) -}}
{{- end }}

{{/* The Secrets that the programs read: existing Secrets from the values, or Secrets of this chart. */}}
{{- define "seckill.redisSecret" -}}
{{ .Values.redis.existingSecret | default (printf "%s-redis" (include "seckill.name" .)) }}
{{- end }}
{{- define "seckill.kafkaSecret" -}}
{{ .Values.kafka.existingSecret | default (printf "%s-kafka" (include "seckill.name" .)) }}
{{- end }}
{{- define "seckill.mysqlSecret" -}}
{{ .Values.mysql.existingSecret | default (printf "%s-mysql" (include "seckill.name" .)) }}
{{- end }}
{{- define "seckill.migrateSecret" -}}
{{ .Values.mysql.existingSecret | default (printf "%s-migrate" (include "seckill.name" .)) }}
{{- end }}
{{- define "seckill.keysSecret" -}}
{{ .Values.orderNumberKeys.existingSecret | default (printf "%s-order-number-keys" (include "seckill.name" .)) }}
{{- end }}

{{- define "seckill.buyerKeySecret" -}}
{{ .Values.buyerKey.existingSecret | default (printf "%s-buyer-key" (include "seckill.name" .)) }}
{{- end }}

{{- define "seckill.env.log" -}}
- name: SECKILL_LOG
  value: {{ .Values.log.filter | quote }}
- name: SECKILL_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
{{- end }}

{{/* The files of TLS to one server: `root`, `server`. Each program and Job mounts them. */}}
{{- define "seckill.env.tls" -}}
{{- $tls := (get .root.Values .server).tls -}}
{{- $prefix := printf "SECKILL_%s" (upper .server) -}}
{{- $folder := include "seckill.tlsFolder" . -}}
{{- if $tls.caSecret }}
- name: {{ $prefix }}_CA_FILE
  value: {{ $folder }}/ca.crt
{{- end }}
{{- if $tls.clientSecret }}
- name: {{ $prefix }}_CERT_FILE
  value: {{ $folder }}/tls.crt
- name: {{ $prefix }}_KEY_FILE
  value: {{ $folder }}/tls.key
{{- end }}
{{- end }}
{{- define "seckill.tlsFolder" -}}
/etc/seckill-tls/{{ .server }}
{{- end }}

{{/* The volumes with these files, and where they are mounted. */}}
{{- define "seckill.tlsVolumes" -}}
{{- range $server := list "redis" "kafka" "mysql" }}
{{- $tls := (get $.Values $server).tls }}
{{- if or $tls.caSecret $tls.clientSecret }}
- name: {{ $server }}-tls
  projected:
    sources:
      {{- with $tls.caSecret }}
      - secret: { name: {{ . | quote }}, items: [{ key: {{ $tls.caKey | quote }}, path: ca.crt }] }
      {{- end }}
      {{- with $tls.clientSecret }}
      - secret: { name: {{ . | quote }}, items: [{ key: tls.crt, path: tls.crt }, { key: tls.key, path: tls.key }] }
      {{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- define "seckill.tlsVolumeMounts" -}}
{{- range $server := list "redis" "kafka" "mysql" }}
{{- $tls := (get $.Values $server).tls }}
{{- if or $tls.caSecret $tls.clientSecret }}
- { name: {{ $server }}-tls, mountPath: {{ include "seckill.tlsFolder" (dict "server" $server) }}, readOnly: true }
{{- end }}
{{- end }}
{{- end }}

{{/* Of one program: `root`, `component`. */}}
{{- define "seckill.env.kafka" -}}
{{- with .root.Values.kafka }}
- name: SECKILL_KAFKA_BROKERS
  value: {{ .brokers | quote }}
- name: SECKILL_KAFKA_TOPIC
  value: {{ .topic | quote }}
{{- end }}
{{- with include "seckill.kafkaPropertiesKey" . }}
- name: SECKILL_KAFKA_PROPERTIES
  valueFrom: { secretKeyRef: { name: {{ include "seckill.kafkaSecret" $.root | quote }}, key: {{ . | quote }} } }
{{- end }}
{{- include "seckill.env.tls" (dict "root" .root "server" "kafka") }}
{{- end }}

{{/* The key of a program's properties in the Secret; empty: it has none. */}}
{{- define "seckill.kafkaPropertiesKey" -}}
{{- $kafka := .root.Values.kafka -}}
{{- if $kafka.existingSecret -}}
{{ get $kafka.existingSecretKeys .component }}
{{- else if get $kafka (printf "%sProperties" .component) -}}
{{ .component }}-properties
{{- else if $kafka.properties -}}
properties
{{- end -}}
{{- end }}

{{/* Environment variables that operator, API and worker have in common. */}}
{{- define "seckill.env" -}}
{{ include "seckill.env.log" .root }}
- name: SECKILL_ADMIN_LISTEN
  value: '[::]:9090'
- name: SECKILL_REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ include "seckill.redisSecret" .root | quote }}, key: url } }
{{- include "seckill.env.tls" (dict "root" .root "server" "redis") }}
{{ include "seckill.env.kafka" . | trim }}
- name: SECKILL_MYSQL_URL
  valueFrom: { secretKeyRef: { name: {{ include "seckill.mysqlSecret" .root | quote }}, key: {{ .component }}-url } }
{{- include "seckill.env.tls" (dict "root" .root "server" "mysql") }}
- name: SECKILL_POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
{{- end }}

{{/* A pod reads its Secrets only at start. The checksum restarts the pods when a Secret of this chart changes. */}}
{{- define "seckill.secretsChecksum" -}}
{{ toJson (list .Values.redis .Values.kafka .Values.mysql .Values.orderNumberKeys .Values.buyerKey) | sha256sum }}
{{- end }}
