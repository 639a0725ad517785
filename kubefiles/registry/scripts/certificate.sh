#!/bin/sh
# certificate.sh FOLDER NAME...: write into FOLDER a certificate for these names and addresses: tls.crt, tls.key. The authority is ca.crt and
# ca.key there, which are made when they are not.
set -eu
cd "$1"
shift
umask 077
# All that openssl reads: it needs no configuration of the machine.
cat > openssl.cnf <<END
[req]
distinguished_name = subject
prompt = no
[subject]
CN = registry
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = @names
[names]
END
number=0
for name; do
  number=$((number + 1))
  case $name in
    # An address has a colon, or nothing but digits and dots.
    *:*) kind=IP ;;
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
  esac
  echo "$kind.$number = $name" >> openssl.cnf
done
export OPENSSL_CONF=openssl.cnf
key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
if [ ! -e ca.key ]; then
  # shellcheck disable=SC2086 # words
  openssl req -x509 $key -days 3650 -subj '/CN=registry authority' -extensions authority -keyout ca.key -out ca.crt 2> /dev/null
fi
# shellcheck disable=SC2086
openssl req -new $key -keyout tls.key -out tls.csr 2> /dev/null
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -days 3650 -extfile openssl.cnf \
  -extensions server -out tls.crt 2> /dev/null
