#!/bin/sh
# A function for launch commands: `helm install` of a release that is installed already upgrades it. Exported where the shell is bash.

helm() {
  case " $* " in *' --generate-name '*|*' -g '*|*' --replace '*|*' --name-template'*) command helm "$@"; return ;; esac
  if [ "${1-}" = install ]; then shift; set -- upgrade --install "$@"; fi
  command helm "$@"
}
# shellcheck disable=SC3045
if [ -n "${BASH_VERSION-}" ]; then export -f helm; fi
