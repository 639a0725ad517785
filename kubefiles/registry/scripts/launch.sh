#!/bin/sh
# launch.sh: keep what the registry needs: its certificate, its login, and what signs the state of uploads. Each is the given one, else that
# of the cluster, else it is made. Keys and passwords are never an argument of a program.
set -eu
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
here=$PWD/registry
cd "$work"
changed=

read_secret() { # read_secret NAME KEY: into the file KEY; fail when there is no such Secret, or no such key in it.
  kubectl get secret "$1" --namespace registry --ignore-not-found \
    --output "go-template={{with .data}}{{with index . \"$2\"}}{{base64decode .}}{{end}}{{end}}" > "$2" || exit 1
  [ -s "$2" ]
}

write_secret() { # write_secret NAME KEY...: from files. Server-side: no annotation repeats them.
  name=$1
  shift
  for key; do
    shift
    set -- "$@" "--from-file=$key"
  done
  kubectl create secret generic "$name" --namespace registry "$@" --dry-run=client --output yaml |
    kubectl apply --server-side --force-conflicts -f -
  changed=yes
}

# The certificate.
if [ -n "${RegistryCertificate:-}" ] || [ -n "${RegistryPrivateKey:-}" ]; then
  if [ -z "${RegistryCertificate:-}" ] || [ -z "${RegistryPrivateKey:-}" ]; then
    echo "RegistryCertificate and RegistryPrivateKey go together: one of them is missing" >&2
    exit 1
  fi
  printf '%s\n' "$RegistryCertificate" > given.crt
  printf '%s\n' "$RegistryPrivateKey" > given.key
  : > none.cnf
  export OPENSSL_CONF="$work/none.cnf"
  if [ "$(openssl x509 -in given.crt -noout -pubkey)" != "$(openssl pkey -in given.key -pubout)" ]; then
    echo "RegistryPrivateKey is not the key of RegistryCertificate" >&2
    exit 1
  fi
  read_secret registry-tls tls.crt && read_secret registry-tls tls.key || true
  if ! cmp -s given.crt tls.crt || ! cmp -s given.key tls.key; then
    mv given.crt tls.crt
    mv given.key tls.key
    write_secret registry-tls tls.crt tls.key
  fi
else
  addresses=$(kubectl get nodes --output 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}')
  # shellcheck disable=SC2046,SC2086 # words
  printf '%s\n' registry registry.registry registry.registry.svc registry.registry.svc.cluster.local localhost 127.0.0.1 \
    $addresses $(echo "${RegistryNames:-}" | tr , ' ') | sort -u > wanted
  mv wanted names.new
  if ! read_secret registry-tls names || ! cmp -s names names.new; then
    # The authority stays: clients trust it.
    if read_secret registry-authority ca.key && read_secret registry-authority ca.crt; then
      known=yes
    else
      rm -f ca.key ca.crt
      known=
    fi
    # shellcheck disable=SC2046 # words
    sh "$here/certificate.sh" "$work" $(cat names.new)
    mv names.new names
    [ -n "$known" ] || write_secret registry-authority ca.key ca.crt
    write_secret registry-tls tls.crt tls.key names
  fi
fi

# The login.
read_secret registry-login password || true
read_secret registry-login username || true
read_secret registry-login htpasswd || rm htpasswd
cp password former-password
cp username former-username
[ ! -e htpasswd ] || cp htpasswd former-htpasswd
if [ -n "${RegistryPassword:-}" ]; then
  printf '%s' "$RegistryPassword" > password
elif [ ! -s password ]; then
  openssl rand -hex 24 | tr -d '\n' > password
fi
if [ "$(wc -c < password)" -gt 72 ]; then
  echo "RegistryPassword has more than 72 bytes: bcrypt takes no more" >&2
  exit 1
fi
printf '%s' "${RegistryUser:?}" > username
[ -z "${RegistryHtpasswd:-}" ] || printf '%s\n' "$RegistryHtpasswd" > htpasswd
if ! cmp -s password former-password || ! cmp -s username former-username || { [ -e htpasswd ] && ! cmp -s htpasswd former-htpasswd; }; then
  if [ -e htpasswd ]; then
    write_secret registry-login username password htpasswd
  else
    write_secret registry-login username password
  fi
fi

if ! read_secret registry-uploads secret; then
  openssl rand -hex 24 | tr -d '\n' > secret
  write_secret registry-uploads secret
fi

# A registry that runs reads these when it starts.
if [ -n "$changed" ] && [ -n "$(kubectl get statefulset registry --namespace registry --ignore-not-found --output name)" ]; then
  kubectl rollout restart statefulset registry --namespace registry
fi
