"""What the launch commands of an application make in a cluster: noted before it is made, so that it can be taken back.

A launch command is anybody's shell text. While it runs, ``kubectl`` and ``helm`` are small scripts of ours that note what they are
about to make, whether it was there before, and then run the real program. All else that a command does is not known.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterable, Sequence

from harness.errors import CommandError
from harness.lifecycle.steps import HELM
from harness.nodes.files import Files, NodeFile
from harness.nodes.kubectl import NodeKubectl

_HELM_API = "helm"


@dataclasses.dataclass(frozen=True)
class Object:
    """One object of the API, or a release of helm (``api`` is ``helm`` then). ``ours``: it was not there before."""

    api: str
    kind: str
    namespace: str
    """Empty for what has none."""
    name: str
    ours: bool = True

    @classmethod
    def parse(cls, line: str) -> Object | None:
        """A line of the notes: ``+ apps/v1 Deployment default web``; None for one that a kill has cut short."""
        words = line.split()
        if len(words) != 5 or words[0] not in ("+", "="):
            return None
        return cls(words[1], words[2], "" if words[3] == "-" else words[3], words[4], words[0] == "+")

    @property
    def words(self) -> str:
        return f"{self.api} {self.kind} {self.namespace or '-'} {self.name}"

    @property
    def line(self) -> str:
        return f"{'+' if self.ours else '='} {self.words}"

    @property
    def is_release(self) -> bool:
        return self.api == _HELM_API

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"helm release {place}{self.name}" if self.is_release else f"{self.kind} {place}{self.name}"


def parse(text: str) -> tuple[Object, ...]:
    """Notes, each object once, in the order in which they were made."""
    found: dict[str, Object] = {}
    for object_ in (Object.parse(line) for line in text.splitlines()):
        if object_ is not None:
            found.setdefault(object_.words, object_)
    return tuple(found.values())


def text(objects: Iterable[Object]) -> str:
    return "".join(f"{one.line}\n" for one in objects)


def dropped(objects: Iterable[Object], touched: str) -> tuple[Object, ...]:
    """Those of ours that the commands of a newer version did not touch any more; ``touched``: their notes, a line for each."""
    seen = set(touched.splitlines())
    return tuple(one for one in objects if one.ours and one.words not in seen)


# ---- what cannot be known ---------------------------------------------------------------------------------------------

_KNOWN = frozenset({"kubectl", "helm", "cd", "export", "set", "echo", "printf", "sleep", "true", ":", "test", "["})


def unknown(commands: Iterable[str]) -> tuple[str, ...]:
    """The launch commands that run more than kubectl and helm: what that does is not noted."""
    return tuple(command for command in commands if not _is_known(command))


def _is_known(command: str) -> bool:
    try:
        words = list(shlex.shlex(command, posix=True, punctuation_chars="();<>|&\n"))
    except ValueError:
        return False
    if re.search(r"[`$]\(|`", command):
        return False
    first = True
    for word in words:
        if set(word) <= set(";|&\n("):
            first = True
        elif first and not re.fullmatch(r"[A-Za-z_]\w*=.*", word, re.DOTALL):
            if word not in _KNOWN:
                return False
            first = False
    return True


# ---- taking back ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Batch:
    """What is removed by one call: a release, or objects in this order."""

    release: Object | None = None
    objects: tuple[Object, ...] = ()

    def __str__(self) -> str:
        return str(self.release) if self.release else ", ".join(map(str, self.objects))


def batches(objects: Sequence[Object]) -> list[Batch]:
    """How objects are removed: last made, first removed, those between two releases together."""
    found: list[Batch] = []
    for one in reversed(objects):
        if one.is_release:
            found.append(Batch(release=one))
        elif found and found[-1].release is None:
            found[-1] = Batch(objects=(*found[-1].objects, one))
        else:
            found.append(Batch(objects=(one,)))
    return found


def manifest(objects: Iterable[Object]) -> str:
    """As much of each object as kubectl needs to know which one is meant."""
    documents = []
    for one in objects:
        place = {"namespace": one.namespace} if one.namespace else {}
        documents.append(json.dumps({"apiVersion": one.api, "kind": one.kind, "metadata": {"name": one.name, **place}}))
    return "\n---\n".join(documents)


NO_KIND = re.compile(r"no matches for kind|the server doesn't have a resource type")
"""What kubectl says of a kind that is gone, and took its objects with it."""


def delete(kubectl: NodeKubectl, objects: Sequence[Object], timeout: float, *, cascade: str = "background") -> None:
    """Remove objects and wait until they are gone; those that are gone already are no fault. Raises CommandError for what does not go."""
    words = ("delete", "--ignore-not-found", "--wait=true", f"--cascade={cascade}", f"--timeout={int(timeout)}s", "--filename=-")
    try:
        kubectl.run(*words, input=manifest(objects), timeout=timeout + 60)
    except CommandError as error:
        lines = [line for line in (error.details or "").splitlines() if "deleted" not in line and line.strip()]
        if not lines or any(not NO_KIND.search(line) for line in lines):
            hint = "see what holds it up: kubectl get -o yaml shows its finalizers; then run the same command again"
            raise CommandError(f"{', '.join(map(str, objects))}: could not be removed", hint=hint, details=error.details) from error


# ---- the scripts ------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{{if .items}}{{range .items}}{{.apiVersion}} {{.kind}} {{with .metadata.namespace}}{{.}}{{else}}-{{end}} {{.metadata.name}}"
    '{{"\\n"}}{{end}}{{else}}{{.apiVersion}} {{.kind}} {{with .metadata.namespace}}{{.}}{{else}}-{{end}} {{.metadata.name}}{{"\\n"}}{{end}}'
)
"""What kubectl prints of objects: ``apps/v1 Deployment default web``."""

# $SLIPWAY_NOTES is the folder of the notes, $SLIPWAY_PATH the PATH without these scripts. Standard input is what is to be made,
# $tmp/there lists what of it is there already.
_NOTE = """umask 077
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
PATH=$SLIPWAY_PATH
notes=$SLIPWAY_NOTES
note() {
  touch "$notes/objects" "$tmp/there"
  while IFS= read -r line; do
    case $line in *'<'*) continue ;; esac
    printf '%s\\n' "$line" >> "$notes/touched"
    if grep -qxF -e "+ $line" -e "= $line" "$notes/objects"; then continue; fi
    if grep -qxF -e "$line" "$tmp/there"; then sign='='; else sign='+'; fi
    printf '%s %s\\n' "$sign" "$line" >> "$notes/objects"
  done
}
"""

KUBECTL = f"""#!/bin/sh
# kubectl for launch commands: what it is about to make is noted, so that it can be taken back.
{_NOTE}
verb= dry= stdin= before=
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
{TEMPLATE}
END
# What the command would make, in the format that is asked for. A lone -- ends its options.
would() {{
  count=$# placed=
  while [ "$count" -gt 0 ]; do
    count=$((count - 1)) word=$1
    shift
    if [ -z "$placed" ] && [ "$word" = -- ]; then set -- "$@" --dry-run=client "-o=$format"; placed=1; fi
    set -- "$@" "$word"
  done
  [ -n "$placed" ] || set -- "$@" --dry-run=client "-o=$format"
  kubectl "$@" < "$tmp/in"
}}
# Lines of what is listed as objects that kubectl reads.
asked() {{
  awk '{{ printf "---\\napiVersion: %s\\nkind: %s\\nmetadata:\\n  name: \\"%s\\"\\n", $1, $2, $4
    if ($3 != "-") printf "  namespace: \\"%s\\"\\n", $3 }}'
}}
# Not every command says in which namespace it makes something: what has one is given it.
list() {{
  format=go-template-file=$tmp/template
  would "$@" 2>/dev/null | awk 'NF == 4 && !seen[$0]++' > "$tmp/raw"
  awk '$3 == "-"' "$tmp/raw" | asked > "$tmp/asked"
  if [ -s "$tmp/asked" ]; then
    kubectl create --dry-run=client --validate=false -f "$tmp/asked" "-o=$format" 2>/dev/null | awk 'NF == 4' > "$tmp/placed"
  else
    : > "$tmp/placed"
  fi
  awk -v placed="$tmp/placed" 'BEGIN {{ while ((getline line < placed) > 0) {{ split(line, w, " "); at[w[1] " " w[2] " " w[4]] = w[3] }} }}
    {{ key = $1 " " $2 " " $4; if ($3 == "-" && key in at) $3 = at[key]; print }}' "$tmp/raw"
}}
there() {{
  asked < "$1" > "$tmp/asked"
  kubectl get --ignore-not-found -f "$tmp/asked" "-o=go-template-file=$tmp/template" 2>/dev/null | awk 'NF == 4'
}}
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
"""

HELM_SCRIPT = f"""#!/bin/sh
# helm for launch commands: the release that it is about to make is noted, so that it can be taken back.
{_NOTE}
{HELM}
verb= dry=
for word in "$@"; do
  case $word in
    --dry-run|--dry-run=*|-h|--help|--generate-name|-g|--name-template*) dry=1 ;;
    install|upgrade) [ -n "$verb" ] || verb=$word ;;
  esac
done
if [ -n "$verb" ] && [ -z "$dry" ]; then
  helm "$@" --dry-run 2>/dev/null | awk '/^NAME: /{{ name = $2 }} /^NAMESPACE: /{{ print "helm Release", $2, name; exit }}' > "$tmp/all"
  read -r _ _ namespace name < "$tmp/all" || name=
  if [ -n "$name" ] && command helm status "$name" --namespace "$namespace" > "$tmp/status" 2>/dev/null; then
    cat "$tmp/all" > "$tmp/there"
  fi
  note < "$tmp/all"
  # A launch that was killed may have left helm at work, or dead on the way.
  state() {{ command helm status "$name" --namespace "$namespace" 2>/dev/null | sed -n 's/^STATUS: //p'; }}
  if [ -s "$tmp/there" ] && grep -qxF -e "+ $(cat "$tmp/all")" "$notes/objects"; then
    end=$(($(date +%s) + 30))
    while case $(state) in pending-*) true ;; *) false ;; esac && [ "$(date +%s)" -lt "$end" ]; do sleep 1; done
    case $(state) in
      pending-install) command helm uninstall "$name" --namespace "$namespace" ;;
      pending-*) command helm rollback "$name" --namespace "$namespace" ;;
    esac
  elif [ -s "$tmp/there" ]; then
    # Somebody else's: to install it means what helm takes it for.
    command helm "$@"
    exit
  fi
fi
helm "$@"
"""


def programs(folder: str) -> Files:
    """The scripts, to be first on the PATH of a launch command."""
    return {f"{folder}/kubectl": NodeFile.text(KUBECTL, 0o755), f"{folder}/helm": NodeFile.text(HELM_SCRIPT, 0o755)}
