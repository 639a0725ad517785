"""What a machine asks of a cluster all the time, and what it was told: nobody who uses a cluster may notice that it changes."""

from __future__ import annotations

import dataclasses
import json

from tests.cluster.lab import Lab, until

# Asks the API by way of the machine's own balancer, each time on a new connection, so that nothing is tried twice unseen; and changes an
# object all the time, which a watch beside it must see change after change. A watch that the server ends goes on from where it was.
_READS = """cd /run/traffic
curl -s -K api --http1.1 --rate 25/s -H 'Connection: close' -m 60 -o /dev/null -w '%{http_code} %{errormsg}\\n' \
  'https://apiserver.cluster.local:6443/api/v1/namespaces/default/configmaps/traffic?[1-1000000]' > reads
"""
_WRITES = """cd /run/traffic
n=0
until [ -e stop ]; do
  n=$((n + 1))
  code=$(curl -s -K api -m 60 -o /dev/null -w '%{http_code} %{errormsg}' -X PATCH -H 'Content-Type: application/merge-patch+json' \
    -d '{"data":{"n":"'$n'"}}' https://apiserver.cluster.local:6443/api/v1/namespaces/default/configmaps/traffic)
  echo "$n $code" >> writes
  sleep 0.3
done
"""
_WATCH = """cd /run/traffic
touch watched
while :; do
  version=$(sed -n 's/.*"resourceVersion":"\\([0-9]*\\)".*/\\1/p' watched | tail -n 1)
  curl -sN -K api "https://apiserver.cluster.local:6443/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name=traffic&\
resourceVersion=${version:-$(cat begin)}" >> watched
  sleep 0.2
done
"""
# Pods come by the service of the API, not by the balancer.
_SERVICE = """cd /run/traffic
until [ -e stop ]; do
  curl -s -K api --http1.1 -m 60 -o /dev/null -w '%{http_code} %{errormsg}\\n' \
    --connect-to apiserver.cluster.local:6443:SERVICE:443 https://apiserver.cluster.local:6443/api/v1/namespaces/default/configmaps/traffic
  sleep 0.1
done > service
"""


@dataclasses.dataclass(frozen=True)
class Told:
    """What was asked, and what of it failed."""

    reads: int
    writes: int
    events: int
    service: int
    lost: tuple[str, ...]


class Traffic:
    """Asks the API of a cluster from its first worker, until it is told to stop."""

    def __init__(self, lab: Lab) -> None:
        self.machine = lab.worker
        lab.kubectl("create", "configmap", "traffic", "--from-literal=n=0")
        lab.kubectl("create", "serviceaccount", "traffic")
        lab.kubectl("create", "role", "traffic", "--verb=get,list,watch,patch", "--resource=configmaps")
        lab.kubectl("create", "rolebinding", "traffic", "--role=traffic", "--serviceaccount=default:traffic")
        token = lab.kubectl("create", "token", "traffic", "--duration=4h").strip()
        service = lab.json("get", "service", "kubernetes")["spec"]["clusterIP"]
        self._scripts = {"watch": _WATCH, "reads": _READS, "writes": _WRITES, "service": _SERVICE.replace("SERVICE", service)}
        self.machine.run("mkdir -p -m 0700 /run/traffic")
        self._put("api", f'cacert = "/etc/kubernetes/pki/ca.crt"\nheader = "Authorization: Bearer {token}"\n')
        for name, text in self._scripts.items():
            self._put(f"{name}.sh", text)
        self.lab = lab

    def _put(self, name: str, text: str) -> None:
        self.machine.put(text.encode(), f"/run/traffic/{name}", 0o600)

    def begin(self) -> None:
        self.lab.kubectl("patch", "configmap", "traffic", "--type=merge", "--patch", '{"data":{"n":"0"}}')
        self._put("begin", self.lab.json("get", "configmap", "traffic")["metadata"]["resourceVersion"])
        self.machine.run("cd /run/traffic; rm -f stop reads writes watched service")
        for name in self._scripts:
            self.machine.run(f"systemd-run --unit=traffic-{name} sh /run/traffic/{name}.sh 2>&1")
        until(self.reads)

    def _lines(self, name: str) -> list[str]:
        # A program that was stopped may have written half of its last line.
        text = self.machine.run(f"cat /run/traffic/{name} 2> /dev/null", check=False).stdout
        return text[: text.rfind("\n") + 1].splitlines()

    def reads(self) -> list[str]:
        """What each read was answered: a status, and what curl says of a failure."""
        return self._lines("reads")

    def _writes(self) -> dict[str, str]:
        """What each write was answered, by the number that it wrote."""
        return dict(line.split(" ", 1) for line in self._lines("writes"))

    def _watched(self) -> list[str]:
        """The numbers that the watch has seen, in order; it may see the object that there was at first as well."""
        seen = [json.loads(line)["object"]["data"]["n"] for line in self._lines("watched") if line.endswith("}")]
        return [number for number in seen if number != "0"]

    def end(self) -> Told:
        # Not in the middle of a write: nobody would know whether the server took it.
        self.machine.run("touch /run/traffic/stop")
        until(lambda: not self.machine.run("systemctl is-active traffic-writes traffic-service", check=False).ok)
        self.machine.run("systemctl stop traffic-reads")
        last = list(self._writes())[-1]
        until(lambda: self._watched()[-1:] == [last])
        self.machine.run("systemctl stop traffic-watch")
        reads, writes, watched, service = self.reads(), self._writes(), self._watched(), self._lines("service")
        lost = [f"read {number}: {answer}" for number, answer in enumerate(reads, 1) if answer.strip() != "200"]
        lost += [f"write {number}: {answer}" for number, answer in writes.items() if answer.strip() != "200"]
        lost += [f"service {number}: {answer}" for number, answer in enumerate(service, 1) if answer.strip() != "200"]
        lost += [] if watched == list(writes) else [f"watched {watched} of {list(writes)}"]
        return Told(len(reads), len(writes), len(watched), len(service), tuple(lost))
