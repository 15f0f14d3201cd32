{{/* Checks that a JSON schema can't express, and checks of secret values, which a schema error would print. Included once, by the Deployment of the operator. */}}
{{- define "seckill.check" -}}
{{- $v := .Values -}}
{{- if and $v.redis.url $v.redis.existingSecret }}{{ fail "redis.url and redis.existingSecret exclude each other: unset one" }}{{ end -}}
{{- if not (or $v.redis.url $v.redis.existingSecret) }}{{ fail "redis is missing: set redis.url, such as redis://:password@redis:6379, or redis.existingSecret, a Secret with the key url" }}{{ end -}}
{{- if and $v.redis.url (not (regexMatch "^rediss?([+](sentinel|cluster))?://." $v.redis.url)) }}{{ fail "redis.url: expected redis://[user][:password@]host[:port][/database], redis+sentinel:// or redis+cluster://, with rediss for TLS, such as redis://:password@redis:6379" }}{{ end -}}
{{- if not $v.kafka.brokers }}{{ fail "kafka is missing: set kafka.brokers, such as kafka-0:9092,kafka-1:9092" }}{{ end -}}
{{- $broker := "(\\[[0-9a-fA-F:.]+\\]|[^,:/ \\[\\]]+):[0-9]+" -}}
{{- if not (regexMatch (printf "^%s( *, *%s)*$" $broker $broker) $v.kafka.brokers) }}{{ fail "kafka.brokers: expected host:port, separated by commas, such as kafka-0:9092,kafka-1:9092" }}{{ end -}}
{{- range $name := list "properties" "operatorProperties" "apiProperties" "workerProperties" "migrateProperties" -}}
  {{- if and (index $v.kafka $name) $v.kafka.existingSecret }}{{ fail (printf "kafka.%s and kafka.existingSecret exclude each other: unset one" $name) }}{{ end -}}
{{- end -}}
{{- if gt (int $v.kafka.minInsync) (int $v.kafka.replication) }}{{ fail (printf "kafka.minInsync is %d and kafka.replication %d: no record could be written; set minInsync to at most replication" (int $v.kafka.minInsync) (int $v.kafka.replication)) }}{{ end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs is missing: name the Gateway, such as [{ name: public, namespace: gateways }]" }}{{ end -}}
{{- $urls := list -}}
{{- range $name := list "operatorUrl" "apiUrl" "workerUrl" "migrateUrl" -}}
  {{- if not (index $v.mysql $name | default $v.mysql.url) }}{{ $urls = append $urls (printf "mysql.%s" $name) }}{{ end -}}
{{- end -}}
{{- if $v.mysql.existingSecret -}}
  {{- if or $v.mysql.url $v.mysql.operatorUrl $v.mysql.apiUrl $v.mysql.workerUrl $v.mysql.migrateUrl }}{{ fail "mysql.existingSecret and mysql URLs exclude each other: unset one" }}{{ end -}}
{{- else if $urls -}}
  {{- fail (printf "mysql is missing: set %s, such as mysql://user:password@mysql:3306/seckill, or mysql.url for all of them, or mysql.existingSecret, a Secret with the keys operator-url, api-url, worker-url and migrate-url" (join ", " $urls)) -}}
{{- end -}}
{{- if and $v.orderNumberKeys.keys $v.orderNumberKeys.existingSecret }}{{ fail "orderNumberKeys.keys and orderNumberKeys.existingSecret exclude each other: unset one" }}{{ end -}}
{{- if and $v.buyerKey.key $v.buyerKey.existingSecret }}{{ fail "buyerKey.key and buyerKey.existingSecret exclude each other: unset one" }}{{ end -}}
{{- if not (regexMatch "^$|^[0-9a-fA-F]{64}$" $v.buyerKey.key) }}{{ fail "buyerKey.key: expected 64 hexadecimal digits, such as the output of openssl rand -hex 32" }}{{ end -}}
{{- range $name := list "url" "operatorUrl" "apiUrl" "workerUrl" "migrateUrl" -}}
  {{- if not (regexMatch "^$|^mysql://[^/@]+@[^/@]+/[^/?]+(\\?.*)?$" (index $v.mysql $name)) }}{{ fail (printf "mysql.%s: expected mysql://user:password@host[:port]/database; in the user and the password, percent-encode every character that is not a letter or digit" $name) }}{{ end -}}
{{- end -}}
{{- $key := "[0-9a-z]:[0-9a-fA-F]{32}(@[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?" -}}
{{- if not (regexMatch (printf "^$|^%s(,%s)*$" $key $key) $v.orderNumberKeys.keys) }}{{ fail "orderNumberKeys.keys: expected <version>:<32 hexadecimal digits>, separated by commas, such as 1:00112233445566778899aabbccddeeff; a further key is followed by @ and the start of the first sale that uses it, such as @2030-01-01T00:00:00Z" }}{{ end -}}
{{- if $v.orderNumberKeys.keys -}}
  {{- $undated := 0 -}}
  {{- range splitList "," $v.orderNumberKeys.keys }}{{ if not (contains "@" .) }}{{ $undated = add1 $undated }}{{ end }}{{ end -}}
  {{- if ne (int $undated) 1 }}{{ fail "orderNumberKeys.keys: exactly one key has no time; a further key is followed by @ and the start of the first sale that uses it, such as @2030-01-01T00:00:00Z" }}{{ end -}}
{{- end -}}
{{- $issuers := list -}}
{{- range $v.issuers -}}
  {{- if has .name $issuers }}{{ fail (printf "issuers: two of them have the name %s: rename one" .name) }}{{ end -}}
  {{- $issuers = append $issuers .name -}}
{{- end -}}
{{- if regexMatch "[:/ ]" $v.ingress.host }}{{ fail (printf "ingress.host: expected a host name without scheme, port and path, such as shop.example.com, not %s" $v.ingress.host) }}{{ end -}}
{{- if and $v.takeOverFrom (eq $v.takeOverFrom $v.clusterIdentity) }}{{ fail "takeOverFrom is the clusterIdentity of this release itself: unset it" }}{{ end -}}
{{- if and (ne $v.api.serviceType "LoadBalancer") (or $v.api.loadBalancerClass $v.api.loadBalancerSourceRanges) }}{{ fail (printf "api.loadBalancerClass and api.loadBalancerSourceRanges need api.serviceType LoadBalancer, not %s" $v.api.serviceType) }}{{ end -}}
{{- if and (eq $v.api.serviceType "ClusterIP") $v.api.externalTrafficPolicy }}{{ fail "api.externalTrafficPolicy needs api.serviceType LoadBalancer or NodePort, not ClusterIP" }}{{ end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled }}{{ fail "metrics.serviceMonitor and metrics.podMonitor exclude each other, because both find the same pods: enable one of them" }}{{ end -}}
{{- range $name := list "api" "worker" -}}
  {{- $program := index $v $name -}}
  {{- if gt (int $program.minReplicas) (int $program.maxReplicas) }}{{ fail (printf "%s.minReplicas is %d, more than %s.maxReplicas, %d" $name (int $program.minReplicas) $name (int $program.maxReplicas)) }}{{ end -}}
{{- end -}}
{{- end }}
