{{/*
What the schema can't say: values that contradict each other, or that the chart sets itself. All of it is told at once.
*/}}
{{- define "legation.check" -}}
{{- $found := concat (include "legation.checkServer" . | fromJsonArray) (include "legation.checkAround" . | fromJsonArray) }}
{{- if $found }}
{{- fail (printf "these values can't be installed:\n- %s" (join "\n- " $found)) }}
{{- end }}
{{- end }}

{{/* The image, and what the server is told. */}}
{{- define "legation.checkServer" -}}
{{- $found := list }}
{{- if not .Values.image.repository }}
{{- $found = append $found "image.repository: name the repository of your Legation image" }}
{{- end }}
{{- $config := .Values.config }}
{{- if not $config.namespaces }}
{{- $found = append $found "config.namespaces: name a namespace, such as { prod: { clusters: [prod-a] } }" }}
{{- end }}
{{- $clusters := list }}
{{- range $name, $namespace := $config.namespaces }}
{{- $namespace = $namespace | default dict }}
{{- $clusters = concat $clusters ($namespace.clusters | default list) }}
{{- if not (or $namespace.clusters $namespace.cloudMap $namespace.files) }}
{{- $found = append $found (printf "config.namespaces.%s: give it clusters, cloudMap or files" $name) }}
{{- end }}
{{- end }}
{{- if hasKey $config "listen" }}
{{- $found = append $found "config.listen: the chart sets it; choose the family of the addresses with ipFamily, and a port with service.port" }}
{{- end }}
{{- if hasKey $config "shutdownGrace" }}
{{- $found = append $found "config.shutdownGrace: the chart sets it from shutdown.graceSeconds" }}
{{- end }}
{{- if hasKey ($config.xds | default dict) "tls" }}
{{- $found = append $found "config.xds.tls: the chart sets it; name the Secret in tls.secretName" }}
{{- end }}
{{- if hasKey ($config.ecs | default dict) "queueUrl" }}
{{- $found = append $found "config.ecs.queueUrl: each replica needs a queue of its own; list them in events.queueUrls" }}
{{- end }}
{{- with .Values.events.queueUrls }}
{{- if ne (len .) (int $.Values.replicas) }}
{{- $found = append $found (printf "events.queueUrls: each replica needs a queue of its own, and there are %d for replicas: %d" (len .) (int $.Values.replicas)) }}
{{- end }}
{{- if not $clusters }}
{{- $found = append $found "events.queueUrls: queues of events, and no cluster that they could be about; give a namespace of config clusters" }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if or (hasPrefix "LEGATION_LISTEN__" .name) (has .name (list "LEGATION_CONFIG" "LEGATION_ECS__QUEUE_URL" "LEGATION_SHUTDOWN_GRACE" "POD_INDEX")) }}
{{- $found = append $found (printf "extraEnv: %s is the chart's to set" .name) }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* What is around it. */}}
{{- define "legation.checkAround" -}}
{{- $found := list }}
{{- $name := include "legation.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- $found = append $found (printf "fullnameOverride: no Service may be called %s; give another name, of a-z, 0-9 and -, that begins with a letter" $name) }}
{{- end }}
{{- with .Values.service }}
{{- if and (ne .type "LoadBalancer") (or .loadBalancerClass .loadBalancerSourceRanges .allocateLoadBalancerNodePorts) }}
{{- $found = append $found (printf "service: loadBalancerClass, loadBalancerSourceRanges and allocateLoadBalancerNodePorts go with type LoadBalancer, not %s" .type) }}
{{- end }}
{{- end }}
{{- with .Values.podDisruptionBudget }}
{{- if and .enabled (gt (int $.Values.replicas) 1) (ge (int .maxUnavailable) (int $.Values.replicas)) }}
{{- $found = append $found (printf "podDisruptionBudget.maxUnavailable: %d would let all replicas go at once; give at most %d" (int .maxUnavailable) (sub (int $.Values.replicas) 1)) }}
{{- end }}
{{- end }}
{{- with .Values.networkPolicy }}
{{- if and .enabled (not (or .xds.cidrs .xds.selectors)) }}
{{- $found = append $found "networkPolicy.xds: nobody could reach the xDS port; name cidrs or selectors" }}
{{- end }}
{{- if and .enabled $.Values.serviceMonitor.enabled (not (or .metrics.cidrs .metrics.selectors)) }}
{{- $found = append $found "networkPolicy.metrics: Prometheus could not reach port 9090, and serviceMonitor.enabled has it ask there; name its selectors or cidrs" }}
{{- end }}
{{- $checked := index ($.Values.service.annotations | default dict) "service.beta.kubernetes.io/aws-load-balancer-healthcheck-port" }}
{{- if and .enabled $checked (not (has $checked (list "traffic-port" "18000"))) (not .metrics.cidrs) }}
{{- $found = append $found (printf "networkPolicy.metrics.cidrs: the load balancer could not check port %s, as service.annotations say, and no pod would get sidecars; name its subnets" $checked) }}
{{- end }}
{{- end }}
{{- $volumes := list "config" "policies" "tls" }}
{{- range .Values.extraVolumes }}
{{- if has .name $volumes }}
{{- $found = append $found (printf "extraVolumes: there is a volume %s already" .name) }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}
