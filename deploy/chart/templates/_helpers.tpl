{{- define "proxy-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "proxy-agent.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end }}

{{- define "proxy-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "proxy-agent.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: an account must be named if none is created" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "proxy-agent.selector" -}}
app.kubernetes.io/name: {{ include "proxy-agent.name" . }}
{{- end }}

{{- define "proxy-agent.labels" -}}
{{ include "proxy-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "proxy-agent.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The metadata of an object from a dict: root, name, labels and annotations of its own, and whether it has a namespace. */}}
{{- define "proxy-agent.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
{{- if not .clusterWide }}
namespace: {{ include "proxy-agent.namespace" $root }}
{{- end }}
labels:
  {{- include "proxy-agent.labels" $root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What both containers are told. */}}
{{- define "proxy-agent.configFlags" -}}
{{- with .Values.config.existing -}}
{{- if .configMap -}}
- --config={{ .mountPath }}/{{ .key }}
{{- else -}}
- --config=/etc/proxy-agent/config.yaml
{{- end }}
{{- end }}
- --agent-config=/etc/proxy-agent/agent.yaml
{{- end }}

{{- define "proxy-agent.roots" -}}
- --cgroup-root=/host/cgroup
- --bpffs-root=/sys/fs/bpf/{{ .Values.bpffs.folder }}
{{- end }}

{{- define "proxy-agent.configMounts" -}}
- name: config
  mountPath: /etc/proxy-agent
  readOnly: true
{{- with .Values.config.existing }}
{{- if .configMap }}
- name: kube-proxy
  mountPath: {{ .mountPath }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{- define "proxy-agent.kubeProxyConfiguration" -}}
{{- $fixed := dict "apiVersion" "kubeproxy.config.k8s.io/v1alpha1" "kind" "KubeProxyConfiguration" -}}
{{- toYaml (merge $fixed .Values.config.kubeProxy) -}}
{{- end }}

{{- define "proxy-agent.agentConfiguration" -}}
{{- $fixed := dict "apiVersion" "proxy-agent/v1alpha1" "kind" "AgentConfiguration" -}}
{{- toYaml (merge $fixed .Values.config.agent) -}}
{{- end }}
