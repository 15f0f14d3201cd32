{{/* Release "seckill" => "seckill"; release "shop" => "shop-seckill". The name is cut, so that it fits with the longest suffix. */}}
{{- define "seckill.name" -}}
{{- $name := ternary .Release.Name (printf "%s-seckill" .Release.Name) (contains "seckill" .Release.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that select the pods of one program. They must not change, because selectors of Deployments are immutable. */}}
{{- define "seckill.selector" -}}
app.kubernetes.io/name: seckill
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "seckill.labels" -}}
app.kubernetes.io/name: seckill
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "seckill.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
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

{{- define "seckill.env.log" -}}
- name: SECKILL_LOG
  value: {{ .Values.log.filter | quote }}
- name: SECKILL_LOG_FORMAT
  value: {{ .Values.log.format }}
{{- end }}

{{- define "seckill.env.kafka" -}}
- name: SECKILL_KAFKA_BROKERS
  value: {{ .Values.kafka.brokers | quote }}
- name: SECKILL_KAFKA_TOPIC
  value: {{ .Values.kafka.topic | quote }}
{{- if or .Values.kafka.properties .Values.kafka.existingSecret }}
- name: SECKILL_KAFKA_PROPERTIES
  valueFrom: { secretKeyRef: { name: {{ include "seckill.kafkaSecret" . }}, key: properties } }
{{- end }}
{{- end }}

{{/* Environment variables that operator, API and worker have in common. */}}
{{- define "seckill.env" -}}
{{ include "seckill.env.log" .root }}
- name: SECKILL_ADMIN_LISTEN
  value: 0.0.0.0:9090
- name: SECKILL_REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ include "seckill.redisSecret" .root }}, key: url } }
{{ include "seckill.env.kafka" .root }}
- name: SECKILL_MYSQL_URL
  valueFrom: { secretKeyRef: { name: {{ include "seckill.mysqlSecret" .root }}, key: {{ .component }}-url } }
- name: SECKILL_POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
{{- end }}

{{/* A pod reads its Secrets only at start. The checksum restarts the pods when a Secret of this chart changes. */}}
{{- define "seckill.podAnnotations" -}}
checksum/secrets: {{ toJson (list .root.Values.redis .root.Values.kafka .root.Values.mysql .root.Values.orderNumberKeys) | sha256sum }}
{{- with .root.Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "seckill.podPlacement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Spreads the pods of one program over the nodes, if there are several nodes. */}}
{{- define "seckill.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "seckill.selector" . | nindent 8 }}
{{- end }}

{{/* The Pod Security Standard "restricted", and also a read-only root file system. */}}
{{- define "seckill.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
{{- end }}
{{- define "seckill.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
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
