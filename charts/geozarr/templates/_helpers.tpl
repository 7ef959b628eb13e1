{{/* Sets what a parameter of the template has by default: (dict "template" T "name" N "value" V); an empty value leaves it. */}}
{{- define "geozarr.default" -}}
{{- if .value }}
{{- range .template.spec.arguments.parameters }}
{{- if eq .name $.name }}{{ $_ := set . "value" (toString $.value) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Sets a field of a mapping: (dict "in" M "name" N "value" V); an empty value leaves it. */}}
{{- define "geozarr.set" -}}
{{- if .value }}{{ $_ := set .in .name .value }}{{ end }}
{{- end }}

{{/* Bytes of a quantity, as 2Gi, 500M or 1073741824. */}}
{{- define "geozarr.bytes" -}}
{{- $text := toString . }}
{{- $units := dict "" 1 "k" 1e3 "K" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15
    "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 }}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]*$" $text)) | int64 }}
{{- end }}

{{/* The service account of Argo's own containers, where the one that converts gets no token. */}}
{{- define "geozarr.executor" -}}
geozarr-executor
{{- end }}

{{/* Not empty where the container that converts gets no token; after an upgrade with --reuse-values there may be no such value. */}}
{{- define "geozarr.tokenless" -}}
{{- if eq (toString .Values.job.token) "false" }}true{{ end }}
{{- end }}
