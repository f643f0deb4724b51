{{- define "clara-proxy.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "clara-proxy.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "clara-proxy.labels" -}}
{{ include "clara-proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "clara-proxy.secret" -}}
{{- .Values.existingSecret | default (include "clara-proxy.name" .) }}
{{- end }}

{{- define "clara-proxy.hasSecret" -}}
{{- if or .Values.existingSecret .Values.secrets }}true{{ end }}
{{- end }}

{{- define "clara-proxy.check" -}}
{{- if and (or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled) (not .Values.sharedStores) }}
{{- fail "several replicas need shared stores: put CLARA_LEDGER_URL and CLARA_ORIGINALS_URL into the secret, and set sharedStores to true" }}
{{- end }}
{{- if and .Values.sharedStores (not (include "clara-proxy.hasSecret" .)) }}
{{- fail "sharedStores needs a secret with CLARA_LEDGER_URL and CLARA_ORIGINALS_URL: set existingSecret or secrets" }}
{{- end }}
{{- end }}
