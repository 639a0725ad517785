#!/bin/sh
# kubectl for launch commands: what it is about to make is noted, so that it can be taken back.

. ./launch_notes.sh
verb='' dry='' stdin='' before=''
for word in "$@"; do
  case $word in
    --) break ;;
    --dry-run=none) ;;
    --dry-run|--dry-run=*|-h|--help) dry=1 ;;
    -f-|-f=-|--filename=-) stdin=1 ;;
    -) case $before in -f|--filename) stdin=1 ;; esac ;;
    apply|create|replace|run|expose|autoscale) [ -n "$verb" ] || verb=$word ;;
    get|describe|logs|exec|delete|label|annotate|patch|scale|rollout|wait|set|taint|edit|diff|config|version|cp|drain|cordon|uncordon)
      [ -n "$verb" ] || verb=other ;;
  esac
  before=$word
done
case $verb in ''|other) dry=1 ;; esac
if [ -n "$dry" ]; then rm -rf "$tmp"; exec kubectl "$@"; fi
if [ -n "$stdin" ]; then cat > "$tmp/in"; else : > "$tmp/in"; fi
cat > "$tmp/template" <<'END'
{{if .items}}{{range .items}}{{.apiVersion}} {{.kind}} {{with .metadata.namespace}}{{.}}{{else}}-{{end}} {{.metadata.name}}{{"\n"}}{{end}}{{else}}{{.apiVersion}} {{.kind}} {{with .metadata.namespace}}{{.}}{{else}}-{{end}} {{.metadata.name}}{{"\n"}}{{end}}
END
# What the command would make, in the format that is asked for. A lone -- ends its options.
would() {
  count=$# placed=
  while [ "$count" -gt 0 ]; do
    count=$((count - 1)) word=$1
    shift
    # The client does not list what the server would merge, but it is the same objects.
    case $word in --server-side|--server-side=*|--force-conflicts|--force-conflicts=*) continue ;; esac
    if [ -z "$placed" ] && [ "$word" = -- ]; then set -- "$@" --dry-run=client "-o=$format"; placed=1; fi
    set -- "$@" "$word"
  done
  [ -n "$placed" ] || set -- "$@" --dry-run=client "-o=$format"
  kubectl "$@" < "$tmp/in"
}
# Lines of what is listed as objects that kubectl reads.
asked() {
  awk '{ printf "---\napiVersion: %s\nkind: %s\nmetadata:\n  name: \"%s\"\n", $1, $2, $4
    if ($3 != "-") printf "  namespace: \"%s\"\n", $3 }'
}
# Not every command says in which namespace it makes something: what has one is given it.
list() {
  format=go-template-file=$tmp/template
  would "$@" 2>/dev/null | awk 'NF == 4 && !seen[$0]++' > "$tmp/raw"
  awk '$3 == "-"' "$tmp/raw" | asked > "$tmp/asked"
  if [ -s "$tmp/asked" ]; then
    kubectl create --dry-run=client --validate=false -f "$tmp/asked" "-o=$format" 2>/dev/null | awk 'NF == 4' > "$tmp/placed"
  else
    : > "$tmp/placed"
  fi
  awk -v placed="$tmp/placed" 'BEGIN { while ((getline line < placed) > 0) { split(line, w, " "); at[w[1] " " w[2] " " w[4]] = w[3] } }
    { key = $1 " " $2 " " $4; if ($3 == "-" && key in at) $3 = at[key]; print }' "$tmp/raw"
}
there() {
  asked < "$1" > "$tmp/asked"
  kubectl get --ignore-not-found -f "$tmp/asked" "-o=go-template-file=$tmp/template" 2>/dev/null | awk 'NF == 4'
}
list "$@" > "$tmp/all"
if [ -s "$tmp/all" ]; then there "$tmp/all" > "$tmp/there"; note < "$tmp/all"; fi
if [ -s "$tmp/there" ] && [ "$verb" != apply ] && [ "$verb" != replace ]; then
  # Of an earlier launch of this application: brought up to date instead of refused.
  foreign=
  while IFS= read -r line; do grep -qxF -e "+ $line" "$notes/objects" || foreign=1; done < "$tmp/there"
  if [ -z "$foreign" ]; then
    format=yaml
    would "$@" > "$tmp/made" && kubectl apply -f "$tmp/made"
    exit
  fi
fi
if [ -n "$stdin" ]; then kubectl "$@" < "$tmp/in"; else kubectl "$@"; fi
code=$?
# Objects of a kind that has only just come to be could not be listed before.
if [ "$code" = 0 ] && [ "$verb" = apply ]; then
  list "$@" | grep -vxF -f "$tmp/all" > "$tmp/late"
  if [ -s "$tmp/late" ]; then : > "$tmp/there"; note < "$tmp/late"; fi
fi
exit "$code"
