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
