"""Names of machines and their addresses. No ssh runs here, and no resolver is asked."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from harness.errors import CommandError, InputError, NodeError
from harness.nodes import Login, names
from harness.nodes.ssh import SshConnections
from tests.unit.nodes.test_ssh import Programs, programs

__all__ = ["programs"]


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch, programs: Programs) -> dict[str, list[str]]:
    """The addresses that the resolver has for hosts. ssh_config has no entry until a test writes one."""
    hosts: dict[str, list[str]] = {}

    def getaddrinfo(host: str, port: None, type: int) -> list[tuple[Any, ...]]:
        if host not in hosts:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, type, 0, "", (address, port or 0)) for address in hosts[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    programs.answer = lambda argv, _: (0, settings(argv[-1]), "") if "-G" in argv else (0, "", "")
    return hosts


def settings(name: str, **more: str) -> str:
    values = {"hostname": name.lower(), "user": "root", "port": "22", **more}
    return "".join(f"{key} {value}\n" for key, value in values.items())


def entries(programs: Programs, text: Mapping[str, str], connection: str = "", code: int = 0) -> None:
    """Entries of ssh_config, and what a machine says of the connection to it."""

    def answer(argv: list[str], _: dict[str, Any]) -> tuple[int, str, str]:
        if "-G" in argv:
            return 0, text.get(argv[-1]) or settings(argv[-1]), ""
        if "SSH_CONNECTION" in argv[-1]:
            return code, connection, "ssh: Permission denied" if code else ""
        return 0, "worker-1\n", ""

    programs.answer = answer


def resolve(*wanted: str, recorded: Mapping[str, str] | None = None) -> dict[str, str]:
    return names.resolve({name: Login() for name in wanted}, recorded or {}, Path("/nowhere/known_hosts"))


def faults(*wanted: str, recorded: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        resolve(*wanted, recorded=recorded)
    return [f"{fault.where}: {fault.message}" for fault in caught.value.faults]


def test_resolve_host_name_and_entry_of_ssh_config(network: dict[str, list[str]], programs: Programs) -> None:
    network |= {"node1.example.com": ["10.0.0.1"], "10.0.0.2": ["10.0.0.2"], "deep.example.com": ["10.0.0.3"]}
    entries(programs, {"cp2": settings("10.0.0.2"), "Cp3": settings("deep.example.com")})
    assert resolve("node1.example.com", "cp2", "Cp3") == {"node1.example.com": "10.0.0.1", "cp2": "10.0.0.2", "Cp3": "10.0.0.3"}
    # A name that leads there by itself needs no login.
    assert not any("SSH_CONNECTION" in argv[-1] for argv, _ in programs.calls)


def test_resolve_ipv6_beside_ipv4_is_the_same_machine(network: dict[str, list[str]]) -> None:
    network |= {"both": ["fd00::1", "10.0.0.1", "fd00::2"], "six": ["fd00::6"]}
    assert resolve("both", "six") == {"both": "10.0.0.1", "six": "fd00::6"}


def test_resolve_all_faults_are_reported_at_once(network: dict[str, list[str]], programs: Programs) -> None:
    network |= {"two": ["10.0.0.1", "10.0.0.2"], "own": ["127.0.1.1"], "moved": ["10.0.0.9"], "a": ["10.0.0.5"], "b": ["10.0.0.5"]}
    network |= {"good": ["10.0.0.7"]}
    entries(programs, {"alias": settings("nosuch.example.com")})
    assert faults(
        "none", "alias", "two", "own", "moved", "a", "b", "good", "x" * 70, recorded={"moved": "10.0.0.3", "good": "10.0.0.7"}
    ) == [
        "none: has no address here: Name or service not known",
        "alias (nosuch.example.com): has no address here: Name or service not known",
        "two: has several addresses: 10.0.0.1, 10.0.0.2",
        "own: resolves to 127.0.1.1, by which no other node reaches it",
        f"{'x' * 70}: has no address here: Name or service not known",
        "moved: is 10.0.0.9 now, and was 10.0.0.3 when it became a node",
        "a, b: are one machine: 10.0.0.5",
    ]


def test_resolve_name_that_cannot_be_one_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        raise UnicodeError(host)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert faults("a..b") == ["a..b: has no address here: it cannot be a host name"]


class Probe:
    """Stands for a socket that is connected to another network, or cannot be."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error

    def __call__(self, *_: object) -> Probe:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def connect(self, _: object) -> None:
        if self.error:
            raise self.error

    def getsockname(self) -> tuple[str, int]:
        return "10.0.0.5", 40000


def test_resolve_this_machine_has_the_address_of_its_way_out(monkeypatch: pytest.MonkeyPatch, programs: Programs) -> None:
    monkeypatch.setattr(socket, "socket", Probe())
    assert resolve("localhost") == {"localhost": "10.0.0.5"}
    assert faults("localhost", recorded={"localhost": "10.0.0.4"}) == ["localhost: is 10.0.0.5 now, and was 10.0.0.4 when it became a node"]
    monkeypatch.setattr(socket, "socket", Probe(OSError(101, "Network is unreachable")))
    assert faults("localhost") == ["localhost: has no route to other networks, so its address is not known: Network is unreachable"]
    assert programs.calls == []


@pytest.mark.parametrize("way", [{"proxyjump": "bastion"}, {"proxycommand": "nc %h %p"}])
def test_resolve_name_behind_jump_host_is_asked_of_the_machine(
    network: dict[str, list[str]], programs: Programs, way: dict[str, str]
) -> None:
    network["inner"] = ["192.0.2.1"]  # another one of that name, as seen from here
    entries(programs, {"w1": settings("inner", **way)}, "Welcome!\n10.0.0.254 50000 10.0.0.11 22\n")
    assert resolve("w1") == {"w1": "10.0.0.11"}


def test_resolve_address_of_entry_behind_jump_host_needs_no_login(network: dict[str, list[str]], programs: Programs) -> None:
    network["10.0.0.11"] = ["10.0.0.11"]
    entries(programs, {"w1": settings("10.0.0.11", proxyjump="bastion")})
    assert resolve("w1") == {"w1": "10.0.0.11"}
    assert not any("SSH_CONNECTION" in argv[-1] for argv, _ in programs.calls)


@pytest.mark.parametrize(
    "lie", ["", "1 2 3", "a b c d", "10.0.0.254 1 127.0.0.1 22", "1 2 $(reboot) 22", "10.0.0.254 1 ../../etc 22", "1 2 \x1b[2J 22"]
)
def test_resolve_answer_of_machine_that_is_not_an_address_is_refused(programs: Programs, lie: str) -> None:
    entries(programs, {"w1": settings("inner", proxyjump="bastion")}, f"{lie}\n")
    with pytest.raises(NodeError, match=r"w1: address: .* is not an address") as caught:
        resolve("w1")
    assert "\x1b" not in str(caught.value)


def test_resolve_machine_that_prints_without_end_is_refused(programs: Programs) -> None:
    entries(programs, {"w1": settings("inner", proxyjump="bastion")})
    before = programs.answer

    def answer(argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        if "SSH_CONNECTION" in argv[-1]:
            assert options["limit"] <= 1 << 20
            raise CommandError("ssh ...: ended, since it printed more than 1 MiB")
        return before(argv, options)

    programs.answer = answer
    with pytest.raises(NodeError, match="w1: address: ended, since it printed more than 1 MiB"):
        resolve("w1")


def test_resolve_unreachable_machine_is_reported_when_nothing_else_is_wrong(programs: Programs) -> None:
    entries(programs, {"w1": settings("inner", proxyjump="bastion")}, code=255)
    with pytest.raises(NodeError, match="w1: it does not accept root"):
        resolve("w1")
    assert faults("w1", "none") == ["none: has no address here: Name or service not known"]


def test_resolve_recorded_machine_must_have_its_host_key(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    entries(programs, {"w1": settings("inner", proxyjump="bastion")}, "10.0.0.254 1 10.0.0.11 22\n")
    made: list[str] = []
    prepare = SshConnections.prepare

    def prepared(ssh: SshConnections) -> None:
        prepare(ssh)
        made.append(ssh.own.read_text())

    monkeypatch.setattr(SshConnections, "prepare", prepared)
    assert resolve("w1", recorded={"w1": "10.0.0.11"}) == {"w1": "10.0.0.11"}
    assert "Host w1\n  HostKeyAlias 10.0.0.11\n" in made[0]
    assert "/nowhere/known_hosts" in made[0]
