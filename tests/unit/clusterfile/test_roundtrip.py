"""A Clusterfile that is accepted can be written, stored in a cluster and read back, whatever it holds.

The inputs are made from the tables in ``schema``, so that a new key of a document is tried as soon as it exists.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.clusterfile import (
    ClusterDocument,
    Clusterfile,
    ExternalRegistry,
    LocalRegistry,
    Password,
    SshSettings,
    schema,
    serialize,
    validators,
)
from harness.clusterfile.diff import difference
from harness.clusterfile.parse import parse
from harness.clusterfile.shapes import (
    AnyShape,
    ChoiceShape,
    FlagShape,
    FormShape,
    ListShape,
    MapShape,
    NumberShape,
    RecordShape,
    Shape,
    TextShape,
)
from harness.clusterfile.write import redacted, write
from harness.errors import InputError
from harness.lifecycle.cluster.record import ClusterRecord

from .reading import cluster, read, spec_text

LIMITS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

CLUSTER = schema.KINDS["Cluster"].spec
assert CLUSTER is not None
HOST = CLUSTER.fields["hosts"].shape.item  # type: ignore[attr-defined]
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3-10.0.0.5", "10.0.0.6,10.0.0.7", "fd00::1", "10.0.0.9")
PHASES = ("PreInit|PreJoin", "post-install", "PostInstall", "PreGuest", "pre-init-host", "Originally", "post-launch", "pre-uninstall")

# Any text may stand where a value is free; these are the ones that YAML, a template or a reader of secrets looks at.
TEXTS = st.one_of(
    st.sampled_from(
        (
            "",
            "a",
            "yes",
            "007",
            "0x1f",
            "1e3",
            "null",
            "~",
            "2024-01-01",
            "12:30:45",
            "#x",
            "a: b",
            "- a",
            "'",
            '"',
            "a\n",
            "\n",
            " a ",
            "a\n\n b\n",
        )
    ),
    st.sampled_from(
        ("{{ Port }}", "{{", "a\tb", "x" * 200, "kubectl apply -f a.yaml", "mysql --password hunter2", "<redacted x>", "é", "a\\n")
    ),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
)

EXAMPLES: dict[Any, st.SearchStrategy[Any]] = {
    validators.addresses: st.sampled_from(ADDRESSES),
    validators.path: st.one_of(TEXTS.filter(lambda text: not text.startswith("~")), st.just("~/.ssh/id")),
    validators.address: st.sampled_from(("10.0.0.8", "fd00::8", "192.168.0.1")),
    validators.networks: st.sampled_from(("10.1.0.0/16", "10.2.0.0/16", "100.64.0.0/10", "10.3.0.0/16,fd00:1::/112")),
    validators.role: st.sampled_from(("master", "master", "node", "worker", "gpu", "Storage")),
    validators.image: st.sampled_from(("shop:1.0", "registry.example.com/shop", "x@sha256:" + 64 * "a")),
    validators.host: st.sampled_from(("jump.example.com", "10.0.0.250", "fd00::9")),
    validators.host_name: st.sampled_from(("a", "A.example.com")),
    validators.san: st.sampled_from(("*.example.com", "10.0.0.8", "a.b")),
    validators.registry: st.sampled_from(("harbor.example.com", "10.0.0.251", "fd00::5")),
    validators.registry_path: st.sampled_from(("/", "a/b", "/a/")),
    validators.folder: st.sampled_from(("/data//x", "/var/lib/slipway/")),
    validators.duration: st.sampled_from(("8760h", "10y", "1h30m", "3601s", "365d")),
    validators.jump: st.sampled_from(("u@h:22", "h", "[fd00::1]:22", "root@10.0.0.1")),
    validators.label_value: st.sampled_from(("", "1", "true", "a-b")),
    validators.label_key: st.sampled_from(("a", "example.com/a")),
    validators.taint: st.sampled_from(("a=b:NoSchedule", "a:NoExecute", "a-", "a=b:NoSchedule-")),
    validators.inside: st.sampled_from(("etc/a.yaml", "/etc/b", " c ")),
    validators.application: st.sampled_from(("web", "a.b")),
    schema.process: st.sampled_from(("value|toJson", "toBase64", "", " value | toSecret ")),
}
"""Values for each check that a scalar can have."""


def values(shape: Shape) -> st.SearchStrategy[Any]:  # noqa: PLR0911 -- one for each shape
    """Values of which most pass ``shape``."""
    match shape:
        case RecordShape():
            return record(shape)
        case ListShape():
            items = st.lists(values(shape.item), max_size=3)
            return st.one_of(items, values(shape.item)) if shape.one else items
        case MapShape():
            return st.dictionaries(EXAMPLES.get(shape.key, TEXTS), values(shape.value), max_size=3)
        case FormShape():
            return st.one_of([values(form) for form in (shape.scalar, shape.sequence, shape.mapping) if form])
        case ChoiceShape():
            return st.sampled_from((*shape.known, ""))
        case NumberShape():
            return st.sampled_from((shape.least, 22, str(shape.least + 1)))
        case FlagShape():
            return st.booleans()
        case TextShape():
            if shape.check is not None:
                return EXAMPLES.get(shape.check, st.sampled_from(("a", "b-c")))
            return st.sampled_from(("a", "b", "NAME")) if shape.pattern is not None else TEXTS
        case schema.Environment():
            return st.one_of(
                st.dictionaries(
                    st.sampled_from(("A", "DB_PASSWORD", "PodCIDR", "x.y")), st.one_of(TEXTS, st.integers(0, 9), st.none()), max_size=3
                ),
                st.lists(st.builds("{}={}".format, st.sampled_from(("A", "Token", "B")), TEXTS), max_size=3),
            )
        case AnyShape():
            return st.recursive(
                st.one_of(TEXTS, st.integers(-9, 10**20), st.booleans(), st.none(), st.floats(allow_nan=False)),
                lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXTS, inner, max_size=2)),
                max_leaves=4,
            )
    raise AssertionError(f"no values are known for {shape}")


def record(shape: RecordShape) -> st.SearchStrategy[dict[str, Any]]:
    usable = {key: field for key, field in shape.fields.items() if field.refused is None and field.ignored is None}
    required = {key: values(field.shape) for key, field in usable.items() if field.required}
    optional = {key: st.one_of(st.none(), values(field.shape)) for key, field in usable.items() if not field.required}
    # Most keys of a real file are absent; with all of them at once nearly everything would be refused.
    few = st.lists(st.sampled_from(sorted(optional)), max_size=3, unique=True) if optional else st.just([])
    return few.flatmap(lambda chosen: st.fixed_dictionaries({**required, **{key: optional[key] for key in chosen}}))


def document(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    spec = schema.KINDS[kind].spec
    assert spec is not None
    return st.builds(
        lambda name, content: {"apiVersion": "slipway.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": content},
        st.sampled_from(("a", "b1")),
        record(spec),
    )


@st.composite
def clusterfiles(draw: st.DrawFn) -> str:
    whole = draw(document("Cluster"))
    form = draw(st.sampled_from(("hosts", "hosts", "masters", "as drawn")))
    if form != "as drawn":
        for key in ("hosts", "masters", "nodes", "provider"):
            whole["spec"].pop(key, None)
    if form == "hosts":
        groups = draw(st.lists(record(HOST), max_size=3))
        for index, group in enumerate(groups):
            group.pop("count", None)
            group |= {
                "ips": draw(st.sampled_from(([], f"10.0.1.{index}", [f"10.0.2.{4 * index + 1}-10.0.2.{4 * index + 3}"]))),
                "roles": draw(st.sampled_from(("node", ["gpu"], ["worker", "x.y"]))),
            }
        whole["spec"]["hosts"] = [{"ips": ["10.0.0.100"], "roles": ["control-plane"]}, *groups]
    elif form == "masters":
        whole["spec"] |= {"masters": {"ipList": ["10.0.0.100"]}, "nodes": {"ipList": draw(st.sampled_from(([], ["10.0.0.101"])))}}
    others = draw(st.lists(st.sampled_from(("Config", "Plugin", "Hook", "Application")).flatmap(document), max_size=2))
    for hook in (other for other in others if other["kind"] in ("Plugin", "Hook")):
        hook["spec"]["action" if hook["kind"] == "Plugin" else "phases"] = draw(st.sampled_from(PHASES))
        hook["spec"].pop("scope", None)
        if hook["spec"].get("type") != "ETCD":
            hook["spec"] |= {"on": draw(st.sampled_from(("", "master", "all", "gpu", "10.0.0.1-10.0.0.2", "master0"))), "data": draw(TEXTS)}
    return serialize.write_documents([whole, *others])


def without_passwords(found: Clusterfile) -> Clusterfile:
    """What is written of a Clusterfile: all of it but the passwords that stand in it."""

    def login(ssh: SshSettings) -> SshSettings:
        jump = dataclasses.replace(ssh.jump, passphrase=None, password=kept(ssh.jump.password)) if ssh.jump else None
        return dataclasses.replace(ssh, passphrase=None, password=kept(ssh.password), jump=jump)

    def kept(password: Password) -> Password:
        return Password() if password.text is not None else password

    def registry(found: LocalRegistry | ExternalRegistry | None) -> Any:
        return dataclasses.replace(found, password=kept(found.password)) if found else None

    whole = found.cluster
    if whole is None:
        return found
    plain: ClusterDocument = dataclasses.replace(
        whole,
        ssh=login(whole.ssh),
        hosts=tuple(dataclasses.replace(host, ssh=login(host.ssh).over(login(whole.ssh))) for host in whole.hosts),
        local_registry=registry(whole.local_registry),
        external_registry=registry(whole.external_registry),
    )
    return dataclasses.replace(found, cluster=plain)


def test_clusterfile_generated_input_round_trips_through_write_and_redacted() -> None:
    accepted = []

    @LIMITS
    @given(clusterfiles())
    def check(text: str) -> None:
        try:
            found = parse(text, "F")
        except InputError:
            return
        accepted.append(found)
        plain = without_passwords(found)
        assert dataclasses.replace(parse(write(found), "F"), warnings=()) == dataclasses.replace(plain, warnings=())
        kept = redacted(found)
        stored = parse(kept, "F", stored=True)
        assert redacted(stored) == kept
        assert difference(stored, found) == ()
        record = ClusterRecord(text=kept)
        assert (record.control_plane, record.workers) == (found.cluster.control_plane, found.cluster.workers) if found.cluster else True

    check()
    # Without this, a table that refuses everything would pass.
    assert len(accepted) > 60
    assert any(found.cluster and found.cluster.workers for found in accepted)


@pytest.mark.parametrize(
    "spec",
    [
        "hosts: [{ips: [10.0.0.1], roles: [master]}, {ips: [], roles: [node]}]",
        "hosts: [{ips: [10.0.0.1], roles: [master]}, {ips: [], roles: [gpu], labels: {a: b}, ssh: {user: x}}]",
        "masters: {ipList: [10.0.0.1]}\nnodes: {ipList: []}",
        "provider: CONTAINER\nhosts: [{count: 1, roles: [master]}, {count: 0, roles: [node]}]",
    ],
)
def test_cluster_host_group_without_machines_is_dropped(spec: str) -> None:
    found = read(spec_text(spec))
    assert found.cluster is not None
    assert [host.roles for host in found.cluster.hosts] == [("control-plane",)]
    assert parse(redacted(found), "F", stored=True).cluster == found.cluster


@pytest.mark.parametrize("group", ["{roles: [node]}", "{ips: [], roles: [node]}", "{ips: , roles: [node]}"])
def test_cluster_record_with_empty_host_group_is_read(group: str) -> None:
    text = spec_text(f"hosts: [{{ips: [10.0.0.1], roles: [master]}}, {group}]")
    record = ClusterRecord(text=text)
    assert (record.control_plane, record.workers) == (("10.0.0.1",), ())


def test_cluster_host_group_without_addresses_is_refused() -> None:
    with pytest.raises(InputError, match=r"hosts\[1\]\.ips: is missing"):
        cluster("hosts: [{ips: [10.0.0.1], roles: [master]}, {roles: [node]}]")
    with pytest.raises(InputError, match="there is no control-plane node"):
        cluster("hosts: [{ips: [], roles: [master]}]")
