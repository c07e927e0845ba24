{{/*
The pod, whatever keeps it: a Deployment or, with queues, a StatefulSet.
*/}}
{{- define "legation.pod" -}}
metadata:
  labels:
    {{- merge (include "legation.selector" . | fromYaml) (.Values.podLabels | default dict) | toYaml | nindent 4 }}
  annotations:
    {{- $checksum := dict "checksum/config" (include "legation.configFiles" . | sha256sum) }}
    {{- merge $checksum (.Values.podAnnotations | default dict) | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "legation.serviceAccount" . | quote }}
  # It asks Kubernetes nothing. The tokens of IRSA and EKS Pod Identity are volumes of their own.
  automountServiceAccountToken: false
  # No environment that is made of the names of Services.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.shutdown.preStopSeconds .Values.shutdown.graceSeconds 5 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "legation.spread" . | trim }}
  topologySpreadConstraints:
    {{- . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: legation
      {{- include "legation.container" . | nindent 6 }}
  volumes:
    - name: config
      configMap:
        name: {{ include "legation.fullname" . }}-config
    - name: policies
      configMap:
        name: {{ include "legation.fullname" . }}-policies
    {{- with .Values.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ . | quote }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Only pods of one revision are counted, so that those of the next are spread as well. */}}
{{- define "legation.spread" -}}
{{- $revision := ternary "controller-revision-hash" "pod-template-hash" (eq (include "legation.kind" .) "StatefulSet") }}
{{- $places := dict "zones" "topology.kubernetes.io/zone" "hosts" "kubernetes.io/hostname" }}
{{- range $what := list "zones" "hosts" }}
{{- $how := get $.Values.spread $what }}
{{- if ne $how "None" }}
- topologyKey: {{ get $places $what }}
  whenUnsatisfiable: {{ $how }}
  maxSkew: 1
  labelSelector:
    matchLabels:
      {{- include "legation.selector" $ | nindent 6 }}
  matchLabelKeys: [{{ $revision }}]
{{- end }}
{{- end }}
{{- end }}

{{- define "legation.container" -}}
image: {{ include "legation.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, {{ include "legation.configFile" . }}]
{{- if or .Values.events.queueUrls .Values.extraEnv }}
env:
  {{- if .Values.events.queueUrls }}
  - name: POD_INDEX # of the file that names this replica's queue
    valueFrom:
      fieldRef:
        fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
ports:
  - name: xds
    containerPort: 18000
  - name: metrics
    containerPort: 9090
# Once the process lives, readiness takes over: the first reading of AWS may take minutes.
startupProbe:
  httpGet: { path: /livez, port: metrics }
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /livez, port: metrics }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: metrics }
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
{{- if .Values.shutdown.preStopSeconds }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.shutdown.preStopSeconds }}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
# Whole folders, because a file mounted by subPath never changes.
volumeMounts:
  - name: config
    mountPath: /etc/legation/config
    readOnly: true
  - name: policies
    mountPath: /etc/legation/policies
    readOnly: true
  {{- if .Values.tls.secretName }}
  - name: tls
    mountPath: /etc/legation/tls
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
