"""Hooks: sealer's old and new forms and ours; which run when, in which order, on which machines."""

from __future__ import annotations

import pytest

from harness.clusterfile import FIRST, Hook, HookTarget, Phase, Selector, Taint
from harness.clusterfile import hooks as clusterfile_hooks
from harness.clusterfile.parse import image_hooks, parse, parse_hooks
from harness.errors import InputError

from .reading import document, faults, hints, hook, read

PLACES = (
    HookTarget("10.0.0.1", ("control-plane",), {"zone": "a"}),
    HookTarget("10.0.0.2", ("control-plane",)),
    HookTarget("10.0.0.3", ("worker", "gpu"), {"zone": "a"}),
    HookTarget("10.0.0.4", ("worker",)),
)


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("Originally", Phase.ORIGINALLY),
        ("PreInit", Phase.PRE_INIT),
        ("PreJoin", Phase.PRE_JOIN),
        ("PostJoin", Phase.POST_JOIN),
        ("PreInstall", Phase.PRE_INSTALL),
        ("PostInstall", Phase.POST_LAUNCH),
        ("PreGuest", Phase.PRE_LAUNCH),
        ("PreClean", Phase.PRE_CLEAN_HOST),
        ("PostClean", Phase.POST_CLEAN_HOST),
        *((phase.value, phase) for phase in Phase),
    ],
)
def test_hook_action_word_maps_to_phase(word: str, phase: Phase) -> None:
    assert hook(f"action: {word}\ntype: SHELL\ndata: x").phases == (phase,)


def test_hook_phase_names_include_words_of_sealer_0_9() -> None:
    words = "pre-init-host post-init-host pre-clean-host post-clean-host upgrade-host pre-install post-install pre-uninstall post-uninstall"
    words += " pre-scaleup post-scaleup upgrade rollback"
    assert set(words.split()) <= set(clusterfile_hooks.NAMES)


def test_hook_phases_are_sorted_in_run_order() -> None:
    assert hook("action: PostClean|PreJoin | PostJoin|Originally\ndata: x").phases == (
        Phase.ORIGINALLY,
        Phase.PRE_JOIN,
        Phase.POST_JOIN,
        Phase.POST_CLEAN_HOST,
    )
    order = [Phase.PRE_INSTALL, Phase.PRE_INIT_HOST, Phase.POST_INIT_HOST, Phase.POST_INSTALL, Phase.PRE_LAUNCH, Phase.POST_LAUNCH]
    assert sorted(order, key=lambda phase: phase.order) == order


def test_phase_originally_alone_has_no_rootfs() -> None:
    assert [phase for phase in Phase if not phase.has_rootfs] == [Phase.ORIGINALLY]


def test_hook_kind_is_read_with_phases_and_selectors() -> None:
    found = hook("phases: [pre-init-host, PostInstall]\non: [gpu, 10.0.0.1-10.0.0.2]\ndata: |\n  echo a", kind="Hook")
    assert found == Hook(
        "n",
        (Phase.PRE_INIT_HOST, Phase.POST_LAUNCH),
        "SHELL",
        (Selector("gpu"), Selector(addresses=("10.0.0.1", "10.0.0.2"))),
        "echo a\n",
    )


@pytest.mark.parametrize(
    ("on", "addresses"),
    [
        ("", "1234"),
        ("on: master", "12"),
        ("on: node", "34"),
        ("on: worker", "34"),
        ("on: master0", "1"),
        ("on: gpu", "3"),
        ("scope: gpu", "3"),
        ("on: 10.0.0.4,10.0.0.2", "24"),
        ("on: 10.0.0.2-10.0.0.3", "23"),
        ("on: [master0, gpu]", "13"),
        ("on: 'master0,10.0.0.4'", "14"),
        ("'on': zone=a", "13"),
        ("on: zone=a,kind=big", "3"),
        ("on: [kind=big, zone=b]", "3"),
        ("on: node-role.kubernetes.io/master=", "12"),
        ("on: node-role.kubernetes.io/gpu=", "3"),
        ("on: all", "1234"),
        ("on: storage", ""),
    ],
)
def test_hook_targets_match_roles_addresses_and_labels(on: str, addresses: str) -> None:
    found = hook(f"action: PostInstall\n{on}\ndata: x")
    where = clusterfile_hooks.targets(found, Phase.POST_LAUNCH, PLACES, labels={"10.0.0.3": {"kind": "big"}})
    assert "".join(address[-1] for address in where) == addresses


def test_hook_targets_among_new_nodes_are_limited_except_for_cluster_phase() -> None:
    found = hook("action: PostJoin\ndata: x")
    assert clusterfile_hooks.targets(found, Phase.POST_JOIN, PLACES, among={"10.0.0.4"}) == ("10.0.0.4",)
    found = hook("action: PostJoin\non: master0\ndata: x")
    assert clusterfile_hooks.targets(found, Phase.POST_JOIN, PLACES, among={"10.0.0.4"}) == ()
    found = hook("action: post-scaleup\ndata: x")
    assert clusterfile_hooks.targets(found, Phase.POST_SCALE_UP, PLACES, among={"10.0.0.4"}) == ("10.0.0.1",)


@pytest.mark.parametrize(
    ("spec", "kind", "on"),
    [
        ("action: post-install", "Plugin", (Selector(FIRST),)),
        ("action: upgrade", "Plugin", (Selector(FIRST),)),
        ("action: post-install\non: node", "Plugin", (Selector("worker"),)),
        ("phases: [post-install]\nscope: node", "Hook", (Selector("worker"),)),
        ("phases: [post-install]\non: all", "Hook", ()),
        ("action: PreInstall", "Plugin", ()),
        ("action: post-init-host", "Plugin", ()),
        ("action: PostInstall", "Plugin", ()),
    ],
)
def test_hook_cluster_phase_defaults_to_first_control_plane_node(spec: str, kind: str, on: tuple[Selector, ...]) -> None:
    assert hook(f"{spec}\ndata: x", kind=kind).on == on


def test_plugin_cluster_phase_scope_is_ignored_with_warning() -> None:
    found = read(document("Plugin", "action: pre-install\nscope: node\ndata: x"))
    assert found.hooks[0].on == (Selector(FIRST),)
    assert [warning.message for warning in found.warnings] == ["pre-install runs on the first control-plane node and ignores scope"]


def test_plugin_data_of_all_types_is_parsed() -> None:
    named = hook("action: PreInit\ntype: HOSTNAME\ndata: |\n  10.0.0.1 Master-0\n\n  # none\n  10.0.0.2   master-1 # second\n")
    assert clusterfile_hooks.host_names(named) == {"10.0.0.1": "master-0", "10.0.0.2": "master-1"}
    labelled = hook("action: PreGuest\ntype: LABEL\ndata: |\n  10.0.0.1 ssd=false,hdd=true\n  10.0.0.1-10.0.0.2 a=\n")
    assert clusterfile_hooks.labels(labelled) == {"10.0.0.1": {"ssd": "false", "hdd": "true", "a": ""}, "10.0.0.2": {"a": ""}}
    tainted = hook("action: PreGuest\ntype: TAINT\ndata: |\n  10.0.0.1,10.0.0.2 k=v:NoSchedule\n  10.0.0.1 k-\n")
    assert clusterfile_hooks.taints(tainted) == {
        "10.0.0.1": (Taint("k", "v", "NoSchedule"), Taint("k", remove=True)),
        "10.0.0.2": (Taint("k", "v", "NoSchedule"),),
    }
    assert hook("action: PreGuest\ntype: CLUSTERCHECK").type == "CLUSTERCHECK"
    backup = hook("action: PostInstall\ntype: ETCD\non: /backup/etcd.db")
    assert (backup.output, backup.on) == ("/backup/etcd.db", ())


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        ("action: PostInstal\ndata: x", "5 .spec.action", "PostInstal is not a phase"),
        ("data: x", "4 .spec.action", "is missing"),
        ("action: []\ndata: x", "5 .spec.action", "names no phase"),
        ("action: '|'\ndata: x", "5 .spec.action", "names no phase"),
        ("action: PreInit", "4 .spec.data", "is missing"),
        ("action: PreInit\ndata: ' '", "6 .spec.data", "is missing"),
        ("action: PreInit\ntype: SHEL\ndata: x", "6 .spec.type", "SHEL is not known here"),
        ("action: PreInit\non: mastr\ndata: x", "6 .spec.on", "mastr is not a role"),
        ("action: PreInit\non: 10.0.0.999\ndata: x", "6 .spec.on", "10.0.0.999 is not an address"),
        ("action: PreInit\non: a\nscope: b\ndata: x", "7 .spec.scope", "on is given too"),
        ("action: PreInit\non: a=b\ndata: x", "6 .spec.on", "machines have no labels at pre-init: they are no nodes of the cluster"),
        ("action: PostInstall\non: a=b c\ndata: x", "6 .spec.on", "b c is not a value of a label"),
        (
            "action: post-install|PostJoin\ndata: x",
            "5 .spec.action",
            "post-install is a phase of the cluster, the others are of machines: where this runs must be said",
        ),
        (
            "action: PostInstall\ntype: HOSTNAME\ndata: 10.0.0.1 a",
            "5 .spec.action",
            "a machine's name cannot change at post-launch: its node has it already, or never gets it",
        ),
        ("action: PreInit\ntype: LABEL\ndata: 10.0.0.1 a=b", "5 .spec.action", "no node exists yet at pre-init"),
        ("action: PreGuest\ntype: LABEL\ndata: |\n  10.0.0.1 a=b\n  10.0.0.2 b", "9 .spec.data", "b is not a label"),
        ("action: PreGuest\ntype: LABEL\ndata: |\n  # x\n  10.0.0.1", "9 .spec.data", "10.0.0.1: an address and a value are wanted"),
        ("action: PreGuest\ntype: TAINT\ndata: 10.0.0.1 a=b", "7 .spec.data", "a=b has no effect"),
        ("action: PreInit\ntype: HOSTNAME\ndata: 10.0.0.1-10.0.0.2 a", "7 .spec.data", "2 machines cannot have one name"),
        ("action: PreInit\ntype: HOSTNAME\ndata: node1 a", "7 .spec.data", "node1 is not an address"),
        ("action: PreGuest\ntype: CLUSTERCHECK\ndata: x", "7 .spec.data", "CLUSTERCHECK takes no data"),
        ("action: PostInstall\ntype: ETCD\non: [a, b]", "7 .spec.on[1]", "one file takes the snapshot"),
        ("phases: [PreInit]\naction: PreInit\ndata: x", "5 .spec.phases", "phases is not known here"),
    ],
)
def test_plugin_invalid_spec_reports_path_and_message(spec: str, where: str, message: str) -> None:
    assert faults(document("Plugin", spec)) == [(where, message)]


def test_hook_unknown_word_hint_names_nearest() -> None:
    assert hints(document("Plugin", "action: PostInstal\ndata: x")) == ["did you mean PostInstall?"]
    assert hints(document("Hook", "action: PostInstall\ndata: x"))[0] == "did you mean phases? action is of kind Plugin"
    assert hints(document("Hook", "phases: [x]\ndata: x", version="sealer.io/v2"))[0] == "known: slipway.dev/v1"


@pytest.mark.parametrize("key", ["on", "scope"])
def test_etcd_hook_file_of_unknown_user_is_reported_unless_stored(key: str) -> None:
    text = document("Plugin", f"action: PostInstall\ntype: ETCD\n{key}: ~nosuchuser/etcd.db")
    message = "~nosuchuser/etcd.db: this machine has no user nosuchuser, or the user has no home folder"
    assert faults(text) == [(f"7 .spec.{key}", message)]
    # Those are given a file below the cluster's folder.
    assert parse(text, "Clusterfile", stored=True).hooks[0].output == "~nosuchuser/etcd.db"
    assert parse_hooks(text, "plugins/a.yaml")[0].output == "~nosuchuser/etcd.db"


def test_merged_hooks_of_image_and_clusterfile_are_kept_once_sorted_by_name() -> None:
    image = [hook("action: PostInstall\ndata: image", name=name) for name in ("b", "a", "c")]
    own = [hook("action: PostInstall\ndata: own", name="a"), hook("action: PostInstall\ndata: image", name="b")]
    merged = clusterfile_hooks.merged(image, own)
    assert [(each.name, each.data) for each in merged] == [("a", "image"), ("a", "own"), ("b", "image"), ("c", "image")]
    # The mistake of sealer: none of the image's without any of one's own, several with several.
    assert [each.name for each in clusterfile_hooks.merged(image, [])] == ["a", "b", "c"]


def test_hooks_at_phase_are_sorted_by_name() -> None:
    hooks = [
        hook(f"action: {action}\ndata: x", name=name) for name, action in (("z", "PreJoin|PostJoin"), ("m", "PostJoin"), ("a", "PreJoin"))
    ]
    assert [each.name for each in clusterfile_hooks.at(hooks, Phase.POST_JOIN)] == ["m", "z"]


def test_image_hooks_are_read_from_plugins_folder_only() -> None:
    files = {
        "plugins/b.yaml": document("Plugin", "action: pre-install\ndata: b", name="b", version="sealer.io/v2").encode(),
        "plugins/a.yml": (
            document("Plugin", "action: PreInit\ndata: a", name="a") + "---\n" + document("Hook", "phases: [upgrade]\ndata: c")
        ).encode(),
        "plugins/readme.md": b"not looked at",
        "plugins/deeper/c.yaml": b"kind: Nothing",
        "etc/plugins.yaml": b"kind: Nothing",
    }
    found = image_hooks(files)
    assert [(each.name, each.phases[0], each.where) for each in found] == [
        ("a", Phase.PRE_INIT, "plugins/a.yml:1"),
        ("n", Phase.UPGRADE, "plugins/a.yml:8"),
        ("b", Phase.PRE_INSTALL, "plugins/b.yaml:1"),
    ]


def test_image_hooks_invalid_files_are_all_reported() -> None:
    files = {
        "plugins/a.yaml": b"kind: Pod\n",
        "plugins/b.so": b"\x7fELF",
        "plugins/c.yaml": b"\xff",
        "plugins/d.yaml": document("Config", "path: a\ndata: b").encode(),
    }
    with pytest.raises(InputError) as caught:
        image_hooks(files)
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("plugins/a.yaml:1 .kind", "Pod is not a kind of a Clusterfile"),
        ("plugins/b.so", "is a plugin in Go's machine code, which only sealer can load"),
        ("plugins/c.yaml", "is not text"),
        ("plugins/d.yaml:1", "Config is not a hook"),
    ]


def test_parse_hooks_file_without_documents_is_empty() -> None:
    assert parse_hooks("# nothing\n", "plugins/a.yaml") == ()


def test_hook_repr_omits_script() -> None:
    assert "geheim" not in repr(hook("action: PreInit\ndata: mysql -pgeheim"))
