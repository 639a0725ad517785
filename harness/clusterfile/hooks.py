"""Hooks: documents Plugin (sealer's two forms) and Hook as values; which run in a phase, in which order, and on which machines."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from harness.clusterfile import CONTROL_PLANE, FIRST, WORKER, Hook, HookTarget, Phase, Selector, Taint, validators
from harness.clusterfile.shapes import LocatedValue, ParsedMapping
from harness.clusterfile.validators import FieldError
from harness.clusterfile.yaml_nodes import FaultReport, YamlNode

_OLD_NAMES: Mapping[str, Phase] = {
    "Originally": Phase.ORIGINALLY,
    "PreInstall": Phase.PRE_INSTALL,
    "PreInit": Phase.PRE_INIT,
    "PreJoin": Phase.PRE_JOIN,
    "PreGuest": Phase.PRE_LAUNCH,
    "PostJoin": Phase.POST_JOIN,
    "PostInstall": Phase.POST_LAUNCH,
    "PreUpgrade": Phase.PRE_UPGRADE,
    "PostUpgrade": Phase.POST_UPGRADE,
    "PreClean": Phase.PRE_CLEAN_HOST,
    "PostClean": Phase.POST_CLEAN_HOST,
    "PreDelete": Phase.PRE_CLEAN_HOST,
    "PostDelete": Phase.POST_CLEAN_HOST,
}
"""sealer up to 0.8, and names of the same kind. Its PostInstall comes after the applications; the ``post-install`` of 0.9 does before."""

NAMES: Mapping[str, Phase] = {**{phase.value: phase for phase in Phase}, **_OLD_NAMES}
"""Every word for a phase."""

_ONCE = frozenset(
    {
        Phase.PRE_SCALE_UP,
        Phase.PRE_INSTALL,
        Phase.POST_INSTALL,
        Phase.POST_SCALE_UP,
        Phase.PRE_UPGRADE,
        Phase.UPGRADE,
        Phase.ROLLBACK,
        Phase.POST_UPGRADE,
        Phase.PRE_UNINSTALL,
        Phase.POST_UNINSTALL,
    }
)
"""Under their new names these run on the first control-plane node, unless a selector is given."""

ALL = "all"
"""Selector for all machines of a phase that runs on the first control-plane node by default."""

_HOSTNAME_PHASES = frozenset({Phase.ORIGINALLY, Phase.PRE_INIT_HOST, Phase.PRE_INIT, Phase.PRE_JOIN})


@dataclasses.dataclass(frozen=True)
class _MachineData:
    """One line of data for machines: their addresses, and the remaining text."""

    addresses: tuple[str, ...]
    rest: str


def build(kind: str, document: ParsedMapping, report: FaultReport) -> Hook | None:
    metadata, spec = document.get("metadata"), document.get("spec")
    if metadata is None or spec is None:
        return None
    key = "phases" if kind == "Hook" else "action"
    words = _phase_words(spec.get(key, ()), report)
    if key in spec and not any(str(entry.value).replace("|", " ").strip() for entry in spec.get(key)):
        report.fault(spec.at(key), "names no phase", "PreInit, post-install ...")
    phases = tuple(sorted({NAMES[word] for word in words}, key=lambda phase: phase.order))
    kind_of_step = spec.get("type", "SHELL")
    on, output = ((), _output(spec, report)) if kind_of_step == "ETCD" else (_selectors(kind, spec, words, report), None)
    hook = Hook(
        name=metadata.get("name", ""),
        phases=phases,
        type=kind_of_step,
        on=on,
        data=spec.get("data", ""),
        output=output,
        where=f"{report.file}:{document.node.line}",
    )
    _check(hook, spec, report)
    return hook


def needs_all(hook: Hook) -> bool:
    """Return True when a hook needs the selector ``all``, since its phase defaults to the first control-plane node."""
    return not hook.on and hook.type != "ETCD" and any(phase in _ONCE for phase in hook.phases)


def _phase_words(entries: Sequence[LocatedValue], report: FaultReport) -> list[str]:
    words = []
    for entry in entries:
        for word in (part.strip() for part in str(entry.value).split("|")):
            if word in NAMES:
                words.append(word)
            elif word:
                report.fault(entry.node, f"{word} is not a phase", validators.suggest(word, NAMES))
    return words


def _output(spec: ParsedMapping, report: FaultReport) -> str | None:
    """ETCD: ``on`` is the file that the snapshot goes to."""
    entries = (*spec.get("on", ()), *spec.get("scope", ()))
    if len(entries) > 1:
        report.fault(entries[1].node, "one file takes the snapshot", "on: /var/backups/etcd.db")
    return str(entries[0].value) if entries else None


def _selectors(kind: str, spec: ParsedMapping, words: Sequence[str], report: FaultReport) -> tuple[Selector, ...]:
    if "on" in spec and "scope" in spec:
        report.fault(spec.at("scope"), "on is given too", "both say the same; one is enough")
    entries = [entry for key in ("on", "scope") for entry in spec.get(key, ())]
    if any(entry.value == ALL for entry in entries):
        return ()
    chosen = [selector for entry in entries for selector in _selector(entry, report)]
    once = [word for word in words if NAMES[word] in _ONCE and word not in _OLD_NAMES]
    if kind == "Plugin" and "scope" in spec and once:
        report.warn(spec.at("scope"), f"{once[0]} runs on the first control-plane node and ignores scope", "on: says where else")
        return (Selector(FIRST),)
    if chosen or not once:
        return tuple(chosen)
    if len(once) < len(words):
        key = "phases" if kind == "Hook" else "action"
        message = f"{once[0]} is a phase of the cluster, the others are of machines: where this runs must be said"
        report.fault(spec.at(key), message, "on: master0, or two documents")
    return (Selector(FIRST),)


def _selector(entry: LocatedValue, report: FaultReport) -> list[Selector]:
    text = str(entry.value).strip()
    try:
        return selectors(text)
    except FieldError as wrong:
        report.fault(entry.node, wrong.message, wrong.hint)
        return []


def selectors(text: str) -> list[Selector]:
    """``control-plane``, ``worker``, ``master0`` (the first control-plane node), a role;
    addresses and ranges; labels ``a=b,c=d``, all of which a machine must have.

    Raises FieldError.
    """
    if "=" in text:
        return [Selector(labels=validators.labels(text))]
    parsed: list[Selector] = []
    machines: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if re.match(r"\d+\.\d|[0-9A-Fa-f]*:", part):
            machines += validators.addresses(part)
        elif part == FIRST:
            parsed.append(Selector(FIRST))
        else:
            parsed.append(Selector(validators.role(part)))
    return [*parsed, *([Selector(addresses=tuple(machines))] if machines else [])]


def _check(hook: Hook, spec: ParsedMapping, report: FaultReport) -> None:
    data = spec.at("data")
    for selector in hook.on:
        early = [phase for phase in hook.phases if not phase.has_node]
        if selector.labels and early:
            message = f"machines have no labels at {early[0].value}: they are no nodes of the cluster"
            report.fault(spec.at("on" if "on" in spec else "scope"), message, "roles or addresses say it at any time")
    if hook.type in ("CLUSTERCHECK", "ETCD"):
        if hook.data.strip():
            report.fault(data, f"{hook.type} takes no data", "remove it")
    elif not hook.data.strip():
        report.fault(dataclasses.replace(data, path=f"{spec.node.path}.data"), "is missing", "what is to be done")
    elif hook.type != "SHELL" and not hook.redacted:
        _check_lines(hook, data, report)
    _check_phases(hook, spec, report)


def _check_phases(hook: Hook, spec: ParsedMapping, report: FaultReport) -> None:
    place = spec.at("phases" if "phases" in spec else "action")
    if hook.type == "HOSTNAME":
        late = [phase for phase in hook.phases if phase not in _HOSTNAME_PHASES]
        if late:
            message = f"a machine's name cannot change at {late[0].value}: its node has it already, or never gets it"
            report.fault(place, message, "PreInit, PreJoin or pre-init-host")
    elif hook.type in ("LABEL", "TAINT", "CLUSTERCHECK"):
        early = [phase for phase in hook.phases if not phase.has_node]
        if early:
            report.fault(place, f"no node exists yet at {early[0].value}", "PreGuest, PostInstall or post-init-host")


def _check_lines(hook: Hook, data: YamlNode, report: FaultReport) -> None:
    read = {"HOSTNAME": validators.host_name, "LABEL": validators.labels, "TAINT": validators.taint}[hook.type]
    for index, text in enumerate(hook.data.splitlines()):
        place = dataclasses.replace(data, line=data.line + index + 1) if data.style in ("|", ">") else data
        try:
            line = _line(text)
            if line is not None:
                _read_line(hook.type, line, read)
        except FieldError as wrong:
            report.fault(place, wrong.message, wrong.hint)


def _line(text: str) -> _MachineData | None:
    content = text.partition(" #")[0].strip()
    if not content or content.startswith("#"):
        return None
    first, _, rest = content.partition(" ")
    if not rest.strip():
        raise FieldError(f"{content}: an address and a value are wanted", "192.168.0.2 value")
    return _MachineData(validators.addresses(first), rest.strip())


def _read_line(kind: str, line: _MachineData, read: Any) -> Any:
    if kind == "HOSTNAME" and len(line.addresses) > 1:
        raise FieldError(f"{len(line.addresses)} machines cannot have one name")
    return read(line.rest)


def _lines(hook: Hook) -> list[tuple[str, Any]]:
    read = {"HOSTNAME": validators.host_name, "LABEL": validators.labels, "TAINT": validators.taint}[hook.type]
    lines = [line for line in (_line(text) for text in hook.data.splitlines()) if line is not None]
    return [(address, read(line.rest)) for line in lines for address in line.addresses]


def host_names(hook: Hook) -> dict[str, str]:
    """HOSTNAME: the name of each machine, by address."""
    return dict(_lines(hook))


def labels(hook: Hook) -> dict[str, dict[str, str]]:
    """LABEL: the labels of each machine, by address."""
    labels_by_address: dict[str, dict[str, str]] = {}
    for address, pairs in _lines(hook):
        labels_by_address.setdefault(address, {}).update(pairs)
    return labels_by_address


def taints(hook: Hook) -> dict[str, tuple[Taint, ...]]:
    """TAINT: what is put onto and taken off each machine, by address, in order."""
    taints_by_address: dict[str, tuple[Taint, ...]] = {}
    for address, taint in _lines(hook):
        taints_by_address[address] = (*taints_by_address.get(address, ()), taint)
    return taints_by_address


def merged(image: Iterable[Hook], clusterfile: Iterable[Hook]) -> tuple[Hook, ...]:
    """The hooks of an image and those of a Clusterfile: each once, by name, the image's before others of the same name."""
    return tuple(sorted(_unique([*image, *clusterfile]), key=lambda hook: hook.name))


def _unique(hooks: Iterable[Hook]) -> list[Hook]:
    distinct: list[Hook] = []
    for hook in hooks:
        if hook not in distinct:
            distinct.append(hook)
    return distinct


def at(hooks: Iterable[Hook], phase: Phase) -> tuple[Hook, ...]:
    """Hooks of a phase, by name."""
    return tuple(sorted((hook for hook in hooks if phase in hook.phases), key=lambda hook: hook.name))


def targets(
    hook: Hook,
    phase: Phase,
    places: Sequence[HookTarget],
    *,
    among: Collection[str] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[str, ...]:
    """The addresses of the machines that a hook runs on, in the order of ``places`` (the whole cluster).

    ``among`` are the machines that the phase is about, such as those that join; a phase of the whole cluster looks at all. ``labels`` are
    those that nodes have in the cluster, by address, beside what the Clusterfile gives them.
    """
    first = next((place.address for place in places if CONTROL_PLANE in place.roles), None)
    selected = []
    for place in places:
        node_labels = {**place.labels, **(labels or {}).get(place.address, {})}
        chosen = not hook.on or any(_matches(selector, place, node_labels, first) for selector in hook.on)
        if chosen and (among is None or phase in _ONCE or place.address in among):
            selected.append(place.address)
    return tuple(selected)


def _matches(selector: Selector, place: HookTarget, labels: Mapping[str, str], first: str | None) -> bool:
    if selector.role == FIRST:
        return place.address == first
    if selector.role is not None:
        return selector.role in place.roles or (selector.role == WORKER and CONTROL_PLANE not in place.roles)
    if selector.addresses:
        return place.address in selector.addresses
    roles = {f"node-role.kubernetes.io/{role}": "" for role in place.roles if role != WORKER}
    if CONTROL_PLANE in place.roles:
        roles["node-role.kubernetes.io/master"] = ""  # the former label, which sealer's files name
    node_labels = {**roles, **labels}
    return all(node_labels.get(key) == value for key, value in selector.labels)
