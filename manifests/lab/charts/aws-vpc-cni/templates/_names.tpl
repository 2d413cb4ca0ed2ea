{{- define "aws-vpc-cni.name" -}}
{{ default .Chart.Name .Values.nameOverride }}
{{- end -}}

{{- define "aws-vpc-cni.fullname" -}}
{{ default (include "aws-vpc-cni.name" .) .Values.fullnameOverride }}
{{- end -}}

{{- define "aws-vpc-cni.account" -}}
{{ default (include "aws-vpc-cni.fullname" .) .Values.serviceAccount.name }}
{{- end -}}

{{- define "aws-vpc-cni.selector" -}}
k8s-app: aws-node
{{- if not .Values.originalMatchLabels }}
app.kubernetes.io/name: {{ include "aws-vpc-cni.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end -}}

{{- define "aws-vpc-cni.labels" -}}
k8s-app: aws-node
app.kubernetes.io/name: {{ include "aws-vpc-cni.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- /* list of an image map and the repository that it names by default */ -}}
{{- define "aws-vpc-cni.image" -}}
{{- $image := index . 0 -}}
{{- if $image.override -}}
{{ $image.override }}
{{- else if $image.overrideRepository -}}
{{ $image.overrideRepository }}:{{ $image.tag }}
{{- else -}}
{{ $image.account }}.dkr.{{ $image.endpoint }}.{{ $image.region }}.{{ $image.domain }}/{{ default (index . 1) $image.name }}:{{ $image.tag }}
{{- end -}}
{{- end -}}
