"""Exchanges between stand-ins for nodes, which do what the shell text says."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from harness import assets, log
from harness.errors import CommandError, NodeError, SlipwayError
from harness.lifecycle.provision import distribution
from harness.lifecycle.provision.distribution import Delivery, Exchange, Load, Parcel, exchange, scripts
from harness.lifecycle.provision.distribution.schedule import AT_ONCE
from harness.lifecycle.provision.node_files import CLEAN
from harness.nodes import claim, each
from harness.nodes.files import tar_stream
from harness.process import ProcessResult

FILES = {"bin/kubelet": b"k" * 50000, "bin/kubectl": b"c" * 30000, "etc/a": b"a"}
SIZE = sum(map(len, FILES.values()))


class Gatherer:
    """A machine that gathers a parcel. ``has`` is what it holds, ``serves`` whether others may ask it."""

    def __init__(self, world: World, address: str) -> None:
        self.world, self.address, self.name = world, address, f"host-{address}"
        self.has: dict[str, bytes] = {}
        self.wanted: dict[str, str] = {}
        self.serves = False
        self.without = ""
        self.bash = True
        self.reaches: set[str] | None = None
        """Whom it reaches; None: everybody."""
        self.gives: dict[str, bytes] = {}
        """What it serves in place of what it has."""
        self.broken = ""
        """What fails: the connection at ``begin`` or ``send``, the ``disk``, or anything else so that nothing arrives."""
        self.parts: list[str] = []
        self.commands: list[str] = []
        self.serving = self.most_at_once = 0

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        self.commands.append(command)
        if command == distribution.CLOSE:
            self.serves = False
            return ProcessResult((), 0, "", "")
        if command == scripts.RENEW:
            return ProcessResult((), 0, "", "")
        if ".have ] || exit 0" in command:
            self.serves = bool(self.has)
            return ProcessResult((), 0, "opens\nserves\n" if self.serves else "", "")
        full = self.broken == "disk" and "# share_begin.sh\n" not in command
        return ProcessResult((), 0, self._gather(command, input), "tar: bin/kubelet: No space left on device" if full else "")

    def _gather(self, command: str, input: Any) -> str:
        told: list[str] = []
        if "# share_begin.sh\n" in command:
            if self.broken == "begin":
                raise NodeError(f"{self.address}: the connection was lost")
            self.wanted = {line[130 + 2 :]: line[:128] for line in _untar(input)["sums"].decode().splitlines()}
            if self.without:
                return f"without {self.without}\n"
            told = [*(f"part {part}" for part in self.parts), *(["fetches"] if self.bash else [])]
        elif "# share_fetch.sh\n" in command:
            found = re.search(r"^PEER=(\S+)$", command, re.MULTILINE)
            assert found
            self._take({} if self.broken else self._ask(found[1]))
        else:
            if self.broken == "send":
                raise NodeError(f"{self.address}: the connection was lost")
            stream = io.BytesIO()
            input(stream)
            self._take({} if self.broken else _untar(stream.getvalue()))
        lacking = [path for path, digest in self.wanted.items() if hashlib.blake2b(self.has.get(path, b"?")).hexdigest() != digest]
        if not lacking:
            self.serves = self.world.serving
        return "\n".join(
            [
                *told,
                *(f"./{path}" for path in lacking),
                *([] if lacking else ["whole"]),
                *(["opens"] if not lacking else []),
                *(["serves"] if self.serves else []),
            ]
        )

    def _ask(self, address: str) -> dict[str, bytes]:
        peer = self.world.machines[address]
        if not peer.serves or (self.reaches is not None and address not in self.reaches):
            return {}
        with self.world.lock:
            peer.serving += 1
            peer.most_at_once = max(peer.most_at_once, peer.serving)
        time.sleep(0.002)
        with self.world.lock:
            peer.serving -= 1
        lacking = {path for path, digest in self.wanted.items() if hashlib.blake2b(self.has.get(path, b"?")).hexdigest() != digest}
        return {path: data for path, data in {**peer.has, **peer.gives}.items() if path in lacking}

    def _take(self, files: dict[str, bytes]) -> None:
        self.has |= {path: data for path, data in files.items() if hashlib.blake2b(data).hexdigest() == self.wanted.get(path)}

    def put_tar(self, stream: Any, destination: str) -> None:
        raise AssertionError

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        raise AssertionError

    def get(self, path: str) -> bytes:
        raise AssertionError


def _untar(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: content.read() for member in tar if (content := tar.extractfile(member))}


class World:
    """Machines, the parcel that they are to have, and the exchange that brings it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.lock = threading.Lock()
        self.serving = True
        self.machines = {address: Gatherer(self, address) for address in (f"10.0.0.{number}" for number in range(1, count + 1))}
        for path, data in FILES.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        self.folder = folder
        self.exchange = Exchange(self.machines.values())
        self.made = 0

    def __getitem__(self, number: int) -> Gatherer:
        return list(self.machines.values())[number - 1]

    def parcel(self, **more: Any) -> Parcel:
        self.made += 1
        files = distribution.contents({path: self.folder / path for path in FILES})
        return Parcel("tree-1", files, place="/var/lib/slipway/tree", finish="true", **more)

    def bring(self, *numbers: int, **more: Any) -> dict[str, Delivery]:
        """To some machines at the same time, or to all."""
        nodes = [self[number] for number in numbers] or list(self.machines.values())
        found = each(nodes, lambda node: self.exchange.bring(node, "tree-1", lambda: self.parcel(**more)))
        return dict(zip((node.address for node in nodes), found, strict=True))

    @property
    def whole(self) -> bool:
        return all(machine.has == FILES for machine in self.machines.values())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, 6)


def sent(brought: Iterable[Delivery]) -> int:
    return sum(1 for one in brought if one.sent)


def test_bring_to_all_nodes_sends_to_one_and_others_copy_from_peers(world: World) -> None:
    brought = world.bring()
    assert world.whole
    assert sent(brought.values()) == 1
    assert sum(1 for one in brought.values() if one.peers) == 5
    assert world.made == 1


def test_bring_to_many_nodes_limits_load_per_peer_and_uses_several_peers(tmp_path: Path) -> None:
    world = World(tmp_path, 40)
    brought = world.bring()
    assert world.whole
    assert sent(brought.values()) == 1
    assert max(machine.most_at_once for machine in world.machines.values()) <= AT_ONCE
    # How many depends on the order in which threads run.
    assert len({peer for one in brought.values() for peer in one.peers}) > 1


def test_bring_parcel_held_by_existing_node_is_only_copied(world: World) -> None:
    world[2].has = dict(FILES)
    brought = world.bring(5, 6)
    assert sent(brought.values()) == 0
    assert brought["10.0.0.5"].note == "copied between machines"
    assert world[5].has == world[6].has == FILES


def test_bring_node_with_whole_parcel_receives_nothing_and_serves(world: World) -> None:
    world[1].has = dict(FILES)
    assert world.bring(1)["10.0.0.1"] == Delivery()
    assert world.bring(2)["10.0.0.2"].peers == ("10.0.0.1",)


def test_bring_idle_peers_serve_in_turn(world: World) -> None:
    for number in (1, 2, 3):
        world[number].has = dict(FILES)
        world.bring(number)
    servers = [world.bring(number)[f"10.0.0.{number}"].peers for number in (4, 5, 6)]
    assert len(set(servers)) == 3


def test_bring_corrupt_file_of_peer_is_rejected_and_sent_by_slipway(world: World) -> None:
    world[1].has = dict(FILES)
    world[1].gives = {"bin/kubectl": b"c" * 29999 + b"x"}
    brought = world.bring(2)["10.0.0.2"]
    assert world[2].has == FILES
    # What was right of it counts: only the file that was not is sent.
    assert brought.peers == ("10.0.0.1",)
    assert len(FILES["bin/kubectl"]) <= brought.sent < SIZE


def test_bring_tries_second_peer_before_sending(world: World) -> None:
    world[1].has, world[2].has = dict(FILES), dict(FILES)
    world[1].gives = {"bin/kubectl": b"other"}
    world[3].reaches = {"10.0.0.1", "10.0.0.2"}
    for number in (3, 4):
        brought = world.bring(number)[f"10.0.0.{number}"]
        assert brought.sent == 0
        assert world[number].has == FILES


def test_bring_isolated_node_is_sent_all_and_others_still_copy(world: World) -> None:
    world[3].reaches = set()
    brought = world.bring()
    assert world.whole
    assert brought["10.0.0.3"].peers == ()
    assert brought["10.0.0.3"].sent > SIZE
    assert sent(brought.values()) <= 2


def test_bring_mutually_unreachable_nodes_stops_trying_peers_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    world = World(tmp_path, 20)
    for machine in world.machines.values():
        machine.reaches = set()
    assert sent(world.bring(1, 2, 3, 4, 5).values()) == 5
    assert sent(world.bring().values()) == 15
    assert world.whole
    assert f"the machines do not reach each other on port {distribution.PORT}" in capsys.readouterr().err
    assert not any("# share_fetch.sh\n" in command for number in range(6, 21) for command in world[number].commands)


def test_bring_without_serving_nodes_sends_to_all(world: World) -> None:
    world.serving = False
    assert sent(world.bring().values()) == 6
    assert world.whole


def test_bring_after_loss_of_first_node_sends_to_another_and_rest_copy(world: World) -> None:
    world[1].broken = "send"
    with pytest.raises(NodeError, match=r"10\.0\.0\.1: the connection was lost"):
        world.bring(1)
    brought = world.bring(2, 3, 4, 5, 6)
    assert sent(brought.values()) == 1
    assert all(world[number].has == FILES for number in (2, 3, 4, 5, 6))


def test_bring_one_lost_node_raises_only_its_error_and_serves_rest(world: World) -> None:
    world[4].broken = "begin"
    with pytest.raises(SlipwayError, match=r"^10\.0\.0\.4: the connection was lost$"):
        world.bring()
    assert all(world[number].has == FILES for number in (1, 2, 3, 5, 6))


def test_bring_node_without_required_programs_gets_whole_tree(world: World) -> None:
    given: list[str] = []
    world[1].without = "b2sum"
    brought = world.bring(1, whole=lambda node: given.append(node.address))
    assert given == ["10.0.0.1"]
    assert brought["10.0.0.1"].sent == SIZE


def test_bring_parcel_with_unlistable_names_gives_whole_tree(world: World) -> None:
    given: list[str] = []
    world.bring(1, 2, whole=lambda node: given.append(node.address), listed=False)
    assert sorted(given) == ["10.0.0.1", "10.0.0.2"]
    assert not world[1].commands[1:]


def test_bring_node_without_bash_copies_nothing_but_serves(world: World) -> None:
    world[1].bash = False
    assert world.bring(1)["10.0.0.1"].peers == ()
    assert world.bring(2)["10.0.0.2"].peers == ("10.0.0.1",)
    world[3].bash = False
    assert world.bring(3)["10.0.0.3"].peers == ()


def test_bring_files_missing_after_send_raises_command_error(world: World) -> None:
    world[1].broken = "nothing arrives"
    with pytest.raises(CommandError, match=r"host-10\.0\.0\.1: 3 of 3 files did not arrive as they should"):
        world.bring(1)


def test_bring_full_disk_is_reported_and_peer_stays_usable(world: World) -> None:
    world.bring(1)
    for number in (2, 3, 4):
        world[number].broken = "disk"
        with pytest.raises(CommandError, match=rf"host-10\.0\.0\.{number}: its disk is full") as caught:
            world.bring(number)
        assert "No space left on device" in str(caught.value.details)
    assert world.bring(5)["10.0.0.5"].peers == ("10.0.0.1",)


def test_bring_sends_smaller_of_packed_layers_and_missing_files(world: World) -> None:
    asked: list[frozenset[str]] = []

    def packed(parts: Any) -> Load:
        asked.append(frozenset(parts))

        def write(stream: Any) -> None:
            with tar_stream(stream) as tar:
                for path, data in FILES.items():
                    entry = tarfile.TarInfo(path)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))

        return Load(40000, write, "gzip -dc | tar -xiof -")

    world[1].parts = ["sha256:a"]
    world.bring(1, packed=packed)
    assert asked == [frozenset({"sha256:a"})]
    assert any("gzip -dc | tar" in command for command in world[1].commands)
    world[2].has = {path: data for path, data in FILES.items() if path != "etc/a"}
    world[2].reaches = set()
    world[2].bash = False
    world.bring(2)
    assert not any("gzip -dc | tar" in command for command in world[2].commands)
    assert world[2].has == FILES


def test_bring_sends_files_that_packed_layers_lack(world: World) -> None:
    def write(stream: Any) -> None:
        with tar_stream(stream) as tar:
            tar.addfile(tarfile.TarInfo("etc"))

    world.bring(1, packed=lambda _: Load(10, write))
    assert world[1].has == FILES


def test_close_ends_serving_on_all_nodes_and_next_bring_resumes_it(world: World) -> None:
    world.bring(1, 2)
    world.exchange.close()
    assert not any(machine.serves for machine in world.machines.values())
    assert distribution.CLOSE not in world[3].commands
    assert world.bring(3)["10.0.0.3"].sent == 0


def test_close_and_next_bring_ignore_lost_node(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.bring(1)

    def lost(*_: object, **__: object) -> ProcessResult:
        raise NodeError("10.0.0.1: no route leads to it")

    monkeypatch.setattr(world[1], "run", lost)
    world.exchange.close()
    # Nor when it is asked whether it has something.
    assert world.bring(2)["10.0.0.2"].sent


def test_key_is_in_no_command_and_differs_per_parcel_and_exchange(world: World) -> None:
    world.bring()
    key = world.exchange.key("tree-1")
    assert not any(key in command for machine in world.machines.values() for command in machine.commands)
    assert key not in (world.exchange.key("tree-2"), Exchange([]).key("tree-1"))


def test_bring_skips_opened_peer_without_answer_and_close_closes_it(world: World) -> None:
    world.serving = False
    world.bring(1)
    assert world.bring(2)["10.0.0.2"].sent
    world.exchange.close()
    assert distribution.CLOSE in world[1].commands


def test_exchange_open_share_is_renewed_until_close(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "RENEW_SECONDS", 0.01)
    renewed = threading.Event()
    run = world[1].run

    def noted(command: str, **more: Any) -> ProcessResult:
        if command == scripts.RENEW:
            renewed.set()
            return ProcessResult((), 0, "", "")
        return run(command, **more)

    monkeypatch.setattr(world[1], "run", noted)
    world.bring(1)
    assert renewed.wait(120)
    world.exchange.close()
    assert world.exchange._renewing is None


def test_close_after_lost_claim_leaves_serving_untouched(world: World) -> None:
    with claim.holding() as held:
        world.bring(1)
        held.lose("another command")
    world.exchange.close()
    assert distribution.CLOSE not in world[1].commands


def test_share_units_are_limited_to_listen_address_and_open_time() -> None:
    assert "ListenStream=$listen" in (assets.NODE / "share.sh").read_text()
    assert f"OnActiveSec={distribution.OPEN_SECONDS}" in scripts.END_TIMER
    assert exchange.RENEW_SECONDS * 3 < distribution.OPEN_SECONDS <= 900


def test_clean_script_contains_close_commands_of_share() -> None:
    assert distribution.CLOSE.rpartition("UNIT=")[2].partition("\n")[2] in CLEAN
