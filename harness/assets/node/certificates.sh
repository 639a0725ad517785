#!/bin/sh
# Print certificates, never the keys that stand beside them in some files.
#
#   "$@"  files of certificates
#   PKI   the folder of the cluster's certificates
#
# Prints lines: a path, and the certificates in it as base64; then `end`.

for path in $PKI/*.crt $PKI/etcd/*.crt "$@"; do
  if [ -f "$path" ]; then echo "$path $(sed -n '/BEGIN CERT/,/END CERT/p' "$path" | base64 | tr -d '\n')"; fi
done
for path in /etc/kubernetes/*.conf; do
  data=$(sed -n 's/^ *client-certificate-data: *//p' "$path" 2>/dev/null | head -n 1)
  if [ -n "$data" ]; then echo "$path $data"; fi
done
echo end
