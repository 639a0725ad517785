"""The keeper of rules in the kernel, as a process: what it makes of servers that die and come back, and of rules that others touch.

The kernel is a stand-in here: a file of rules, with the words of ipvsadm. tests/vm has a real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import assets, process
from harness.lifecycle.provision import ipvs
from tests.waiting import HANG, until

VIP = "10.103.97.2"
CONTROL_PLANE = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
KEEPER = assets.FOLDER / "ipvs.sh"
FOREIGN = "-A -t 10.96.0.10:53 -s rr"

PROGRAMS = {
    # As the real one: it refuses what is there already, or is not there.
    "ipvsadm": """case "$1" in
  -S) cat "$STUB/rules" ;;
  -L) cat "$STUB/connections" 2>/dev/null ;;
  -A | -a) ! grep -qxF -e "$*" "$STUB/rules" && echo "$*" >> "$STUB/rules" ;;
  -D) grep -v -F -e " -t $3 " "$STUB/rules" > "$STUB/fewer"; mv "$STUB/fewer" "$STUB/rules" ;;
  -e) grep -v -F -e "-a -t $3 -r $5 " "$STUB/rules" > "$STUB/fewer" && echo "-a -t $3 -r $5 $6 $7 $8" >> "$STUB/fewer"
    mv "$STUB/fewer" "$STUB/rules" ;;
  -d) grep -v -F -e "-a -t $3 -r $5 " "$STUB/rules" > "$STUB/fewer"; mv "$STUB/fewer" "$STUB/rules" ;;
  *) exit 2 ;;
esac""",
    "openssl": """for word; do address=$word; done
read -r request
echo "$address $request" >> "$STUB/asked"
[ -e "$STUB/dead.$address" ] && exit 1
[ -e "$STUB/once.$address" ] && rm "$STUB/once.$address" && exit 1
if [ -e "$STUB/says.$address" ]; then cat "$STUB/says.$address"; else echo 'HTTP/1.0 200 OK'; fi""",
    "ip": """case "$*" in
  'route get '*) cat "$STUB/route" 2>/dev/null || echo "$3 via 10.0.0.254 dev eth0 src 10.0.0.7 uid 0" ;;
  'route replace '*) echo "$*" >> "$STUB/routes"; echo "local $4 dev lo src $8 uid 0" > "$STUB/route" ;;
  'route del '*) echo "$*" >> "$STUB/routes"; rm -f "$STUB/route" ;;
esac""",
    "ss": 'echo "$*" >> "$STUB/cut"',
    "modprobe": ":",
}


class Kept:
    """A keeper at work on a machine of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.rules_file = folder / "rules"
        programs = self.state / "rootfs/bin"
        programs.mkdir(parents=True)
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        vs = folder / "proc/sys/net/ipv4/vs"
        vs.mkdir(parents=True)
        for path in ("conntrack", "expire_nodest_conn"):
            (vs / path).write_text("0\n")
        (folder / "proc/net").mkdir()
        (folder / "proc/net/ip_vs").touch()
        self.rules_file.write_text(f"{FOREIGN}\n")
        self.configure(ipvs.config(VIP, "10.0.0.7", CONTROL_PLANE, CONTROL_PLANE[:1]))
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, text: str) -> None:
        (self.state / "ipvs.conf").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        places = {"SLIPWAY_STATE": self.state, "SLIPWAY_PROC": self.folder / "proc", "RUNTIME_DIRECTORY": self.folder / "run"}
        return {
            **{name: str(path) for name, path in places.items()},
            "STUB": str(self.folder),
            "SLIPWAY_INTERVAL": "0.1",
            "SLIPWAY_HURRY": "0.1",
        }

    def start(self) -> None:
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", KEEPER, "keep"], env={**os.environ, **self.environment}, stdout=log, stderr=log, start_new_session=True
            )
        self.until((self.folder / "run/ready").exists)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(HANG)
            self.process = None

    def kill(self, address: str, *, dead: bool = True) -> None:
        mark = self.folder / f"dead.{address}"
        mark.touch() if dead else mark.unlink()

    @property
    def rules(self) -> list[str]:
        return self.rules_file.read_text().splitlines()

    def servers(self, port: int = 6443) -> set[str]:
        """Those that get new connections."""
        return {address for address, weight in self.weights(port).items() if weight}

    def weights(self, port: int = 6443) -> dict[str, int]:
        words = [line.split() for line in self.rules if line.startswith(f"-a -t {VIP}:{port} ")]
        return {word[4].rpartition(":")[0]: int(word[7]) for word in words}

    def says(self, address: str, answer: str) -> None:
        """Have a server answer so from now on."""
        part = self.folder / "part"
        part.write_text(answer)
        part.rename(self.folder / f"says.{address}:6443")

    def until(self, holds: Callable[[], object]) -> None:
        until(holds, lambda: (self.rules, (self.folder / "log").read_text()))

    def rounds(self, count: int = 3) -> None:
        """Let it look at everybody some times."""
        asked = self.folder / "asked"
        before = len(asked.read_text().splitlines()) if asked.exists() else 0
        self.until(lambda: asked.exists() and len(asked.read_text().splitlines()) >= before + 4 * count)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    found = Kept(tmp_path)
    yield found
    found.stop()


def test_keeper_start_with_dead_endpoints_writes_rules_and_route(kept: Kept) -> None:
    for address in (*(f"{node}:6443" for node in CONTROL_PLANE), "10.0.0.1:5000"):
        kept.kill(address)
    kept.start()
    assert kept.servers() == set(CONTROL_PLANE)
    assert kept.servers(5000) == {"10.0.0.1"}
    (route,) = (kept.folder / "routes").read_text().splitlines()
    assert route == f"route replace local {VIP} dev lo src 10.0.0.7 table local mtu 1500 advmss 1460"
    vs = kept.folder / "proc/sys/net/ipv4/vs"
    assert [(vs / name).read_text().strip() for name in ("conntrack", "expire_nodest_conn")] == ["1", "1"]


def test_keeper_dead_server_is_removed_until_it_answers(kept: Kept) -> None:
    kept.start()
    kept.kill("10.0.0.2:6443")
    kept.until(lambda: kept.servers() == {"10.0.0.1", "10.0.0.3"})
    assert kept.servers(5000) == {"10.0.0.1"}
    told = (kept.folder / "run/servers").read_text().splitlines()
    assert sorted(told) == ["api 10.0.0.1 UP", "api 10.0.0.2 DOWN", "api 10.0.0.3 UP", "registry 10.0.0.1 UP"]
    kept.kill("10.0.0.2:6443", dead=False)
    kept.until(lambda: kept.servers() == set(CONTROL_PLANE))
    assert FOREIGN in kept.rules
    assert f"{VIP}:6443 leads to 10.0.0.2:6443 no more" in (kept.folder / "log").read_text()


def test_keeper_probes_readyz_of_api_servers_and_root_of_registry(kept: Kept) -> None:
    kept.start()
    kept.rounds(1)
    asked = set((kept.folder / "asked").read_text().splitlines())
    assert {line.rstrip("\r") for line in asked} == {
        *(f"{node}:6443 GET /readyz HTTP/1.0" for node in CONTROL_PLANE),
        "10.0.0.1:5000 GET / HTTP/1.0",
    }


READY, FRESH = "HTTP/1.0 200 OK\r\n\r\nok", "HTTP/1.0 403 Forbidden\r\n\r\n{}"
LEAVING = "HTTP/1.0 500 Internal Server Error\r\n\r\n[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed"


def test_keeper_leaving_server_gets_weight_0_and_is_cut_once_dead(kept: Kept) -> None:
    (kept.folder / "connections").write_text(f"TCP 14:59 ESTABLISHED 10.0.0.7:40000 {VIP}:6443 10.0.0.3:6443\n")
    kept.start()
    kept.says("10.0.0.3", LEAVING)
    kept.until(lambda: kept.weights() == {"10.0.0.1": 1, "10.0.0.2": 1, "10.0.0.3": 0})
    kept.rounds()
    assert not (kept.folder / "cut").exists()
    assert "api 10.0.0.3 LEAVING" in (kept.folder / "run/servers").read_text()
    kept.kill("10.0.0.3:6443")
    kept.until(lambda: "10.0.0.3" not in kept.weights())
    kept.until((kept.folder / "cut").exists)
    # Before it knows who may do what it refuses everybody, and then it is not ready yet.
    for said in (FRESH, "HTTP/1.0 500 Internal Server Error\r\n\r\n[-]informer-sync failed: reason withheld"):
        kept.says("10.0.0.3", said)
        kept.kill("10.0.0.3:6443", dead=False)
        kept.rounds()
        assert "10.0.0.3" not in kept.weights()
        kept.kill("10.0.0.3:6443")
    kept.says("10.0.0.3", READY)
    kept.kill("10.0.0.3:6443", dead=False)
    kept.until(lambda: kept.servers() == set(CONTROL_PLANE))


def test_keeper_without_ready_server_keeps_best_remaining_servers(kept: Kept) -> None:
    for node in CONTROL_PLANE:
        kept.says(node, FRESH)
    kept.start()
    kept.rounds()
    assert kept.servers() == set(CONTROL_PLANE)
    kept.says(CONTROL_PLANE[0], LEAVING)
    kept.until(lambda: kept.weights() == {CONTROL_PLANE[0]: 1})
    kept.says(CONTROL_PLANE[1], READY)
    kept.until(lambda: kept.weights() == {CONTROL_PLANE[0]: 0, CONTROL_PLANE[1]: 1})


@pytest.mark.parametrize(("said", "lives"), [("HTTP/1.1 401 Unauthorized", True), ("HTTP/1.1 500 no etcd", False), ("", False)])
def test_keeper_server_answering_401_stays_and_unready_or_empty_answer_is_removed(kept: Kept, said: str, lives: bool) -> None:
    kept.says("10.0.0.3", f"{said}\r\n")
    kept.start()
    if lives:
        kept.rounds()
        assert kept.servers() == set(CONTROL_PLANE)
    else:
        kept.until(lambda: kept.servers() == {"10.0.0.1", "10.0.0.2"})


def test_keeper_single_failed_probe_keeps_server(kept: Kept) -> None:
    kept.start()
    missed = kept.folder / "once.10.0.0.1:6443"
    missed.touch()
    kept.until(lambda: not missed.exists())
    kept.rounds()
    assert "no more" not in (kept.folder / "log").read_text()


def test_keeper_all_servers_dead_keeps_all_until_one_answers(kept: Kept) -> None:
    kept.start()
    for node in CONTROL_PLANE:
        kept.kill(f"{node}:6443")
    kept.rounds(4)
    kept.until(lambda: kept.servers() == set(CONTROL_PLANE))
    kept.kill("10.0.0.3:6443", dead=False)
    kept.until(lambda: kept.servers() == {"10.0.0.3"})


def test_keeper_removed_rules_and_route_are_restored(kept: Kept) -> None:
    kept.start()
    kept.rules_file.write_text("")
    (kept.folder / "route").unlink()
    kept.until(lambda: kept.servers() == set(CONTROL_PLANE) and kept.servers(5000) and (kept.folder / "route").exists())


def test_keeper_foreign_rules_of_virtual_ip_are_removed(kept: Kept) -> None:
    kept.start()
    strange = [f"-a -t {VIP}:6443 -r 10.9.9.9:6443 -m -w 1", f"-A -t {VIP}:80 -s rr"]
    kept.rules_file.write_text("".join(f"{line}\n" for line in [*kept.rules, *strange]))
    kept.until(lambda: not set(strange) & set(kept.rules))
    assert kept.servers() == set(CONTROL_PLANE)


def test_keeper_sighup_updates_servers_and_keeps_connections_of_remaining_ones(kept: Kept) -> None:
    kept.start()
    assert kept.process is not None
    (kept.folder / "connections").write_text(f"TCP 14:59 ESTABLISHED 10.0.0.7:40000 {VIP}:6443 10.0.0.2:6443\n")
    kept.configure(ipvs.config(VIP, "10.0.0.7", ["10.0.0.2", "10.0.0.4"], ["10.0.0.4"]))
    os.kill(kept.process.pid, signal.SIGHUP)
    kept.until(lambda: kept.servers() == {"10.0.0.2", "10.0.0.4"} and kept.servers(5000) == {"10.0.0.4"})
    assert not (kept.folder / "cut").exists()


def test_keeper_connections_to_dead_server_are_cut(kept: Kept) -> None:
    kept.start()
    ends = ((40000, 1), (40001, 2), (40002, 2))
    lines = [f"TCP 14:59 ESTABLISHED 10.0.0.7:{port} {VIP}:6443 10.0.0.{number}:6443\n" for port, number in ends]
    (kept.folder / "connections").write_text("".join(lines))
    kept.kill("10.0.0.2:6443")
    kept.until(lambda: kept.servers() == {"10.0.0.1", "10.0.0.3"})
    kept.until(lambda: (kept.folder / "cut").exists() and len((kept.folder / "cut").read_text().splitlines()) == 2)
    assert {line.split()[2] for line in (kept.folder / "cut").read_text().splitlines()} == {"10.0.0.7:40001", "10.0.0.7:40002"}


def test_keeper_stop_and_restart_keep_rules(kept: Kept) -> None:
    kept.start()
    kept.stop()
    before = kept.rules
    assert kept.servers() == set(CONTROL_PLANE)
    kept.start()
    assert kept.rules == before


def test_keeper_clean_removes_only_its_own_rules_and_route(kept: Kept) -> None:
    kept.start()
    kept.stop()
    process.run(["sh", KEEPER, "clean"], env=kept.environment)
    assert kept.rules == [FOREIGN]
    assert (kept.folder / "routes").read_text().splitlines()[-1] == f"route del local {VIP} dev lo table local"
    process.run(["sh", KEEPER, "clean"], env=kept.environment, check=False)
    assert kept.rules == [FOREIGN]


def test_keeper_kernel_without_ipvs_is_reported(kept: Kept) -> None:
    (kept.folder / "proc/net/ip_vs").unlink()
    said = process.run(["sh", KEEPER, "keep"], env=kept.environment, check=False, timeout=HANG)
    assert (said.returncode, said.stderr.strip()) == (1, "the kernel has no IPVS")


def test_keeper_ipv6_addresses_are_written_in_brackets(kept: Kept) -> None:
    kept.configure(ipvs.config("fd00::2", "fd00::7", ["fd00::1"], []))
    kept.start()
    assert kept.rules[1:] == ["-A -t [fd00::2]:6443 -s rr", "-a -t [fd00::2]:6443 -r [fd00::1]:6443 -m -w 1"]
    assert "mtu 1500 advmss 1440" in (kept.folder / "routes").read_text()
