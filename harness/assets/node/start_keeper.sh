#!/bin/sh
# Start the keeper of IPVS, or have it read its configuration again, and wait until the rules are in place.
#
#   READY  the file that the keeper writes then

rm -f "$READY"
systemctl enable --no-reload slipway-balancer 2>&1; systemctl reload-or-restart slipway-balancer
end=$(($(date +%s) + 20))
until [ -e "$READY" ]; do
  if [ "$(date +%s)" -gt "$end" ]; then journalctl -u slipway-balancer -n 20 --no-pager -o cat >&2; exit 1; fi
  sleep 0.1
done
