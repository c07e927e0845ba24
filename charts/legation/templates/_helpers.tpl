{{/*
Names, labels, and the configuration of the server as the chart completes it. What must not be is in _check.tpl.
*/}}

{{- define "legation.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* 52 characters leave room for what is appended: "-policies" here, the hash of a revision by Kubernetes. */}}
{{- define "legation.fullname" -}}
{{- $name := include "legation.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "legation.selector" -}}
app.kubernetes.io/name: {{ include "legation.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "legation.labels" -}}
{{ include "legation.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The metadata of an object: its name with an ending, if there is one. Takes a list of the context and the ending. */}}
{{- define "legation.metadata" -}}
{{- $context := first . -}}
name: {{ include "legation.fullname" $context }}{{ last . }}
namespace: {{ $context.Release.Namespace }}
labels:
  {{- include "legation.labels" $context | nindent 2 }}
{{- end }}

{{- define "legation.serviceAccount" -}}
{{- $usual := ternary (include "legation.fullname" .) "default" .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default $usual }}
{{- end }}

{{/* A digest decides what runs; the tag beside it is for people. */}}
{{- define "legation.image" -}}
{{- with .Values.image }}
{{- $tag := .tag | default (ternary "" $.Chart.AppVersion (ne .digest "")) }}
{{- .repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* With queues each replica has its own, and so needs a place in a row. */}}
{{- define "legation.kind" -}}
{{- ternary "StatefulSet" "Deployment" (not (empty .Values.events.queueUrls)) }}
{{- end }}

{{/* The series of a metric in PromQL: those of this release where the ServiceMonitor makes them known, else all. Takes a
list of the context, the name and matchers. */}}
{{- define "legation.series" -}}
{{- $context := first . }}
{{- $matchers := slice . 2 }}
{{- if $context.Values.serviceMonitor.enabled }}
{{- $matchers = append $matchers (printf "job=%q" (printf "%s-metrics" (include "legation.fullname" $context))) }}
{{- end }}
{{- index . 1 }}{{ with $matchers }}{{ printf "{%s}" (join ", " .) }}{{ end }}
{{- end }}

{{/* How many sidecars the limit on memory does for: six for each MiB, at up to 110 KiB each. Nothing where that is more than
the server's own limit of 20,000, or no limit is said. */}}
{{- define "legation.maxStreams" -}}
{{- with (.Values.resources | default dict).limits }}
{{- with .memory }}
{{- $units := dict "" 1.0 "k" 1e3 "Ki" 1024.0 "M" 1e6 "Mi" 1048576.0 "G" 1e9 "Gi" 1073741824.0 "T" 1e12 "Ti" 1099511627776.0 }}
{{- $number := ternary (regexFind "^[0-9]+([.][0-9]+)?" (toString .)) (toString .) (kindIs "string" .) }}
{{- $unit := ternary (trimPrefix $number (toString .)) "" (kindIs "string" .) }}
{{- if and $number (hasKey $units $unit) }}
{{- $streams := int64 (floor (divf (mulf (float64 $number) (get $units $unit) 6) 1048576)) }}
{{- if and (ge $streams 1) (lt $streams 20000) }}
{{- $streams }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The configuration of one replica. Takes a list of the context and the URL of its queue, which may be empty. */}}
{{- define "legation.config" -}}
{{- $context := first . }}
{{- $values := $context.Values }}
{{- $config := deepCopy $values.config }}
{{- $_ := set $config "shutdownGrace" (printf "%ds" (int $values.shutdown.graceSeconds)) }}
{{- $_ := set $config "policies" (concat (list "/etc/legation/policies") ($config.policies | default list)) }}
{{- if eq $values.ipFamily "IPv6" }}
{{- $_ := set $config "listen" (dict "xds" "[::]:18000" "metrics" "[::]:9090") }}
{{- end }}
{{- $streams := include "legation.maxStreams" $context }}
{{- if and $streams (not (hasKey ($config.xds | default dict) "maxStreams")) }}
{{- $_ := set $config "xds" (set ($config.xds | default dict) "maxStreams" (int64 $streams)) }}
{{- end }}
{{- if $values.tls.secretName }}
{{- $files := dict "certificateFile" "/etc/legation/tls/tls.crt" "privateKeyFile" "/etc/legation/tls/tls.key" }}
{{- $_ := set $config "xds" (set ($config.xds | default dict) "tls" $files) }}
{{- end }}
{{- with last . }}
{{- $_ := set $config "ecs" (set ($config.ecs | default dict) "queueUrl" .) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The file of the configuration that a replica reads. */}}
{{- define "legation.configFile" -}}
/etc/legation/config/{{ ternary "replica-$(POD_INDEX)" "legation" (not (empty .Values.events.queueUrls)) }}.yaml
{{- end }}

{{/* The files of the configuration: one for all replicas, or with queues one for each. */}}
{{- define "legation.configFiles" -}}
{{- if .Values.events.queueUrls }}
{{- range $index, $url := .Values.events.queueUrls }}
replica-{{ $index }}.yaml: |
  {{- include "legation.config" (list $ $url) | nindent 2 }}
{{- end }}
{{- else }}
legation.yaml: |
  {{- include "legation.config" (list . "") | nindent 2 }}
{{- end }}
{{- end }}
