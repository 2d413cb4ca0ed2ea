{{- define "coredns.name" -}}
{{ default .Chart.Name .Values.nameOverride }}
{{- end -}}

{{- define "coredns.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains (include "coredns.name" .) .Release.Name -}}
{{ .Release.Name }}
{{- else -}}
{{ .Release.Name }}-{{ include "coredns.name" . }}
{{- end -}}
{{- end -}}

{{- define "coredns.account" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "coredns.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "coredns.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ include "coredns.name" . }}
k8s-app: {{ default .Chart.Name .Values.k8sAppLabelOverride }}
{{- end -}}

{{- define "coredns.labels" -}}
{{ include "coredns.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.customLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
