"""Images and archives made by hand to do harm. ``Home.slipway`` judges each command; a test adds what it alone expects."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import images
from tests.hostile.answers import healthy, snapshot
from tests.hostile.canary import SECRET, Home, Outcome, told
from tests.hostile.images import BASIC, Layout, cloud_image, folder, hard_link, layer, link
from tests.hostile.sshd import Sshd
from tests.hostile.test_machines import SEQUENCES, run

DISK = 96 << 20
"""Bytes that may lie on the disk after a command on an image of some kilobytes."""


def loaded(home: Home, layout: Layout, name: str = "image.tar") -> Outcome:
    return home.slipway("load", "-f", layout.archive(home.work / name))


def with_files(files: dict[str, bytes | str], *entries: tuple[str, dict[str, Any]]) -> Layout:
    return cloud_image([layer({**BASIC, **files}, entries)])


def without(*names: str) -> dict[str, bytes | str]:
    return {name: content for name, content in BASIC.items() if name not in names}


# ---- links ------------------------------------------------------------------------------------------------------------

LINKS: dict[str, Callable[[str], list[tuple[str, dict[str, Any]]]]] = {
    # The folder of the canaries without its leading slash -> entries.
    "addon": lambda home: [link("etc/addons/a.yaml", f"/{home}/.ssh/id_rsa")],
    "addon-relative": lambda home: [link("etc/addons/a.yaml", f"{'../' * 30}{home}/.ssh/id_rsa")],
    "addon-chain": lambda home: [link("etc/up", f"/{home}"), link("etc/addons/a.yaml", "../up/.ssh/id_rsa")],
    "addons-folder": lambda home: [link("etc/addons", f"/{home}/keys")],
    "containerd": lambda home: [link("etc/containerd/config.toml", f"/{home}/keys/key.toml")],
    "kubeadm": lambda home: [link("etc/kubeadm.yaml", f"/{home}/keys/key.yaml")],
    "facts": lambda home: [link("etc/slipway.yaml", f"/{home}/keys/facts.yaml")],
    "plugin": lambda home: [link("plugins/a.yaml", f"/{home}/.ssh/id_rsa")],
    "plugins-folder": lambda home: [link("plugins", f"/{home}/.ssh")],
    "template": lambda home: [link("etc/a.conf.tmpl", f"/{home}/.ssh/id_rsa")],
    "template-folder": lambda home: [link("etc/conf", f"/{home}/.ssh"), link("etc/b.tmpl", "conf/id_rsa")],
    "hard": lambda home: [hard_link("etc/addons/a.yaml", f"/{home}/.ssh/id_rsa")],
    "hard-relative": lambda home: [hard_link("etc/addons/a.yaml", f"{'../' * 30}{home}/.ssh/id_rsa")],
    "metadata": lambda home: [link("Metadata", f"/{home}/.ssh/id_rsa")],
    "root": lambda home: [link("etc", f"/{home}/.ssh")],
}


@pytest.mark.parametrize("kind", LINKS)
def test_run_image_with_link_to_local_file_does_not_send_it(kind: str, home: Home, machines: Sshd) -> None:
    keys = home.home / "keys"
    keys.mkdir()
    secret = SECRET.decode()
    (keys / "key.yaml").write_text(f"apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\ncontrollerManager: {{a: {secret}}}\n")
    (keys / "key.toml").write_text(f'[grpc]\naddress = "{secret}"\n')
    (keys / "facts.yaml").write_text(f"kubernetes: v1.31.4\npauseImage: {secret}\n")
    home.accept("home", "home/keys", *(f"home/keys/{path.name}" for path in keys.iterdir()))
    entries = LINKS[kind](str(home.home).lstrip("/"))
    replaced = {name for name, _ in entries}
    files = {name: content for name, content in BASIC.items() if not {name, *map(str, Path(name).parents)} & replaced}
    assert loaded(home, cloud_image([layer(files, entries)])).code in (0, 4)
    healthy(machines.first)
    run(home, machines)
    home.slipway("sbom", "bad")
    assert not told(machines)


# ---- entries of layers ------------------------------------------------------------------------------------------------

ENTRIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "absolute": [("/etc/cron.d/x", {"data": b"* * * * * root id\n"})],
    "dots": [(f"{'../' * 30}etc/x", {"data": b"x"})],
    "dots-inside": [("etc/../../../x", {"data": b"x"})],
    "device": [("dev/sda", {"type": tarfile.BLKTYPE, "devmajor": 8})],
    "character": [("dev/mem", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 1})],
    "pipe": [("etc/addons/a.yaml", {"type": tarfile.FIFOTYPE})],
    "pipe-template": [("etc/a.tmpl", {"type": tarfile.FIFOTYPE})],
    "whiteout-dots": [(".wh...", {}), ("etc/.wh...", {}), (".wh..", {}), (".wh.", {})],
    "through-link": [link("out", "/tmp"), ("out/slipway-hostile", {"data": b"x"})],
    "under-file": [("a", {"data": b"x"}), ("a/b", {"data": b"x"})],
    "loop": [link("a", "b"), link("b", "a"), ("a/x", {"data": b"x"})],
    "empty-name": [("", {"data": b"x"}), (".", {"type": tarfile.DIRTYPE, "mode": 0}), ("./", {"type": tarfile.DIRTYPE, "mode": 0})],
    "long-part": [("a" * 300, {"data": b"x"}), ("/".join(["d"] * 3000), {"data": b"x"})],
    "strange": [(f"etc/{SEQUENCES.replace(chr(0), '')}", {"data": b"x"}), ("etc/\udcff", {"data": b"x"})],
    "unreadable": [folder("etc/conf", 0), ("etc/conf/a.tmpl", {"data": b"x", "mode": 0})],
    "negative": [("etc/x", {"uid": -1, "gid": 2**40, "mtime": -5e10})],
}


ESCAPES = {
    "absolute": "its entry '/etc/cron.d/x' has an absolute path",
    "dots": f"its entry '{'../' * 30}etc/x' leaves the rootfs",
    "dots-inside": "its entry 'etc/../../../x' leaves the rootfs",
    "through-link": "its entry 'out/slipway-hostile' leaves the rootfs through a link",
}
"""Cases that name a file outside of the tree, and the words that refuse them."""


def state(path: Path) -> tuple[int, ...] | None:
    """All that a write changes of a file. Of a folder or a device the mode: other programs write to them too."""
    try:
        about = path.lstat()
    except (OSError, ValueError):
        return None
    more = (about.st_ino, about.st_size, about.st_mtime_ns) if stat.S_ISREG(about.st_mode) else ()
    return about.st_mode, *more


@contextlib.contextmanager
def machine_unchanged(entries: list[tuple[str, dict[str, Any]]]) -> Iterator[None]:
    """Watch the files of this machine that entries name, from its root or through a link before them: no home for canaries has these."""
    links = {name: fields["linkname"] for name, fields in entries if fields.get("type") == tarfile.SYMTYPE}
    paths = {Path(os.path.normpath(f"/{name}")) for name, _ in entries}
    for folder_name, target in links.items():
        paths |= {Path("/", target, name.removeprefix(f"{folder_name}/")) for name, _ in entries if name.startswith(f"{folder_name}/")}
    before = {path: state(path) for path in paths}
    yield
    changed = sorted(path for path in paths if state(path) != before[path])
    for path in changed:
        if before[path] is None and not path.is_dir():
            path.unlink()
    assert not changed


@pytest.mark.parametrize("kind", ENTRIES)
def test_run_layer_with_hostile_entry_leaves_home_and_machine_unchanged(kind: str, home: Home, machines: Sshd) -> None:
    with machine_unchanged(ENTRIES[kind]):
        loaded(home, with_files({}, *ENTRIES[kind]))
        healthy(machines.first)
        outcome = run(home, machines)
        home.slipway("sbom", "bad")
        home.slipway("history", "bad")
    if kind in ESCAPES:
        assert outcome.code == 4
        assert ESCAPES[kind] in outcome.stderr
        assert [*home.root.rglob("x")] == []


@pytest.mark.parametrize("named", ["from-root", "through-link"])
def test_machine_unchanged_written_file_is_noticed_and_removed(named: str, tmp_path: Path) -> None:
    """What the tests around this one rely on."""
    written = tmp_path / "x"
    entries = [(str(written), {})] if named == "from-root" else [link("out", str(tmp_path)), ("out/x", {})]
    with pytest.raises(AssertionError, match=str(written)), machine_unchanged(entries):
        written.write_text("x")
    assert not written.exists()


@pytest.mark.parametrize("kind", [*LINKS, *ENTRIES])
def test_conformance_hostile_archive_fails_rootfs_clause_and_unpacks_nothing(kind: str, home: Home) -> None:
    entries = LINKS[kind](str(home.home).lstrip("/")) if kind in LINKS else ENTRIES[kind]
    archive = cloud_image([layer({}, entries)]).archive(home.work / "image.tar")
    with machine_unchanged(entries) if kind in ENTRIES else contextlib.nullcontext():
        for words in ((), ("--output", "json")):
            checked = home.slipway("conformance", archive, *words)
            assert checked.code == 1
            assert "CI-ROOTFS-5" in checked.stdout
            assert [path for path in home.cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("together", [True, False])
def test_run_folder_mode_of_layer_is_not_applied_through_link(together: bool, home: Home, machines: Sshd) -> None:
    victim = home.home / "work"
    first = [folder("x"), folder("x/work", 0o777), folder("y", 0o000)]
    second = [("x", {"data": b""}), link("x", str(home.home)), ("y", {"data": b""}), link("y", str(home.home))]
    layers = [layer(dict(BASIC), [*first, *second])] if together else [layer(dict(BASIC), first), layer({}, second)]
    before = victim.stat().st_mode
    loaded(home, cloud_image(layers))
    healthy(machines.first)
    run(home, machines)
    assert victim.stat().st_mode == before


def test_run_setuid_program_of_image_is_not_accessible_to_other_users(home: Home, machines: Sshd) -> None:
    """The tree keeps the modes that nodes are to have; no other user of this machine gets to it."""
    loaded(home, with_files({}, ("bin/su", {"data": b"#!/bin/sh\n", "mode": 0o6755})))
    healthy(machines.first)
    run(home, machines)
    there = [path for path in home.cache.rglob("*") if path.is_file() and not path.is_symlink()]
    assert there
    for path in there:
        if path.stat().st_mode & 0o6000:
            folders = [parent for parent in path.parents if parent.is_relative_to(home.cache)]
            assert any(not parent.stat().st_mode & 0o077 for parent in folders), path


# ---- bombs ------------------------------------------------------------------------------------------------------------

BOMBS: dict[str, Callable[[], bytes]] = {
    "long-name": lambda: images.long_name(300 << 20),
    "pax": lambda: images.pax(300 << 20),
    "sparse": lambda: images.sparse(200 << 20),
    "sparse-large": lambda: images.sparse(1 << 40),
    # The kernel's time to make a file counts against the limit of processor time, and a busy machine takes several times as much of it.
    "many": lambda: images.many(10_000),
    "most": lambda: images.many(300_000),
    "zeros": lambda: images.zeros(200 << 20, images.header(b"zeros", 200 << 20, b"0"), bytes(1024)),
    "facts": lambda: images.zeros(150 << 20, images.header(b"etc/slipway.yaml", 150 << 20, b"0"), bytes(1024)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_run_layer_bomb_stays_within_disk_limit(kind: str, home: Home, machines: Sshd) -> None:
    layers = [layer(BASIC), BOMBS[kind]()]
    if kind == "facts":
        layers.reverse()
        layers[1] = layer(without("etc/slipway.yaml"))
    loaded(home, cloud_image(layers))
    healthy(machines.first)
    # To make that many files takes minutes, and a list of them hundreds of megabytes. What reads them is the same.
    if kind != "most":
        run(home, machines)
        home.slipway("sbom", "bad")
    # What a layer may unpack to: 64 MiB and 200 times its own size.
    assert home.size() < DISK + sum((64 << 20) + 201 * len(data) for data in layers)


TEMPLATES = {
    "quotes": "{{ A " + "| quote " * 60 + "}}",
    "indent": "{{ indent 9999999999 A }}",
    "indent-pipe": "{{ A | indent 9999999999 }}",
    "indent-call": "{{ A | indent(9999999999) }}",
    "repeat": "{{ 'x' * 10**10 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "format": "{{ '%9999999999d' % 1 }}",
    "ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
    "joined": "{% set a = 'x' * 1000 %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    "comments": "{{/*" * 60_000,
    "braces": "{{ " * 60_000,
    "nested": "{{" + "(" * 20_000 + "1" + ")" * 20_000 + "}}",
    "ifs": "{{ if A }}" * 20_000,
    "zero": "{{ 1 // 0 }}{{ 1 % 0 }}",
    "number": "{{ 1e999 }}{{ A | int(1e999) }}",
    "attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__ }}",
    "include": "{% include '/etc/passwd' %}{% import 'x' as y %}{% extends 'x' %}",
    "tuple": "{{ (1, 2) | quote }}{{ [] | quote }}{{ dict(a=1) | quote }}",
    "lipsum": "{{ lipsum(n=999999999) }}",
    "center": "{{ 'x' | center(9999999999) }}{{ 'x'.ljust(9999999999) }}",
    "terminal": "{{ " + SEQUENCES + " }}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_run_hostile_template_ends_within_disk_limit(kind: str, home: Home, machines: Sshd) -> None:
    files: dict[str, bytes | str] = {
        "etc/a.conf.tmpl": TEMPLATES[kind],
        "manifests/b.yaml.tmpl": TEMPLATES[kind],
        "charts/c.yaml.tmpl": "x",
    }
    layout = cloud_image([layer({**BASIC, **files})], about=images.info(env={"A": "\\\\'\"x"}))
    assert loaded(home, layout).code == 0
    healthy(machines.first)
    run(home, machines)
    assert home.size() < DISK


JINJA = {
    "quotes": "it takes more memory than a template may",
    "indent": "expected token 'end of print statement', got 'integer'",
    "indent-pipe": "expected token 'end of print statement', got 'integer'",
    "indent-call": "numbers up to 10000 are taken here",
    "repeat": "* makes a value that is too large",
    "power": "** makes a value that is too large",
    "format": "a format pads to more columns than it may",
    "ranges": "the ranges of a template give more than 1000000 numbers",
    "joined": "it takes more memory than a template may",
    "comments": "unexpected '/'",
    "braces": "it is nested too deeply",
    "nested": "it is nested too deeply",
    "ifs": "expected token 'end of print statement', got 'A'",
    "zero": "integer division or modulo by zero",
    "number": "name 'inf' is not defined",
    "attribute": "access to attribute '__class__' of 'str' object is unsafe.",
    "include": "no loader for this environment specified",
    "tuple": "",
    "lipsum": "lipsum is not defined",
    "center": "numbers up to 10000 are taken here",
    "terminal": "",
}
"""The fault of each template as one of Jinja; an empty text for those that it renders."""


@pytest.mark.parametrize("kind", TEMPLATES)
def test_run_hostile_jinja_template_is_refused_with_fault_or_rendered(kind: str, home: Home, machines: Sshd) -> None:
    files: dict[str, bytes | str] = {"etc/a.conf.j2": TEMPLATES[kind], "manifests/b.yaml.j2": TEMPLATES[kind]}
    layout = cloud_image([layer({**BASIC, **files})], about=images.info(env={"A": "\\\\'\"x"}))
    assert loaded(home, layout).code == 0
    healthy(machines.first)
    outcome = run(home, machines)
    assert home.size() < DISK
    if JINJA[kind]:
        assert outcome.code == 2
        assert all(f"{name}:1: {JINJA[kind]}\n" in outcome.stderr for name in files)
        assert not machines.first.heard
    else:
        assert "+ unpack and render the rootfs" in outcome.stderr


YAML = {
    "aliases": images.aliases(),
    "merges": images.merges(),
    "deep": images.deep(),
    "flow": "{a: " * 5000,
    "cycle": "a: &a [*a]\n",
    "many": "- x\n" * 300_000,
    "key": "? " * 5000 + "x",
    "object": "!!python/object/apply:os.system [id]\n",
    "number": "a: " + "9" * 20_000 + "\nb: 0x" + "f" * 20_000 + "\nc: 1:" + "59:" * 5000 + "1\n",
    "date": "a: 9999-99-99\nb: 2001-12-14t21:59:43.10-99:99\n",
    "kinds": "kind: [x]\nimage: {a: 1}\nspec: 5\n---\n5\n---\n[image]\n---\nimage: 7\n",
    "binary": "a: !!binary x\nb: !!set {1, 2}\nc: !!omap [1]\n",
    "terminal": f"image: '{SEQUENCES.replace(chr(0), '').replace(chr(13), '')}'\n",
}


@pytest.mark.parametrize(
    "place", [("manifests/a.yaml", "etc/kubeadm.yml"), ("etc/slipway.yaml",), ("plugins/a.yaml",)], ids=lambda place: place[-1]
)
@pytest.mark.parametrize("kind", ["aliases", "merges", "deep", "cycle", "number", "kinds"])
def test_run_hostile_yaml_of_image_stays_within_limits(kind: str, place: tuple[str, ...], home: Home, machines: Sshd) -> None:
    healthy(machines.first)
    assert loaded(home, with_files(dict.fromkeys(place, YAML[kind]))).code == 0
    run(home, machines)


@pytest.mark.parametrize("kind", YAML)
def test_build_hostile_yaml_of_base_and_context_stays_within_limits(kind: str, home: Home) -> None:
    """Of a base image and of a context: with a changed copy of the same file upon it, both are looked into."""
    layers = [layer({**BASIC, "manifests/a.yaml": YAML[kind], "charts/c/Chart.yaml": YAML[kind], "imageList": YAML[kind]})]
    assert loaded(home, cloud_image(layers)).code == 0
    context = home.work / "context"
    (context / "manifests").mkdir(parents=True)
    (context / "manifests/a.yaml").write_text(f"# changed\n{YAML[kind]}")
    (context / "Kubefile").write_text("FROM bad:latest\nCOPY manifests manifests\nCMD kubectl apply -f manifests/a.yaml\n")
    # Helm's own part is not tested here: this one renders whatever the chart says, and takes the minutes of a compilation from no test.
    helm = home.work / "programs/helm"
    helm.parent.mkdir()
    helm.write_text('#!/bin/sh\nexec cat "$3/Chart.yaml"\n')
    helm.chmod(0o755)
    home.slipway("build", "-t", "made", "--discover", "declared", context, env={"PATH": f"{helm.parent}:{os.environ['PATH']}"})
    home.slipway("diff", "bad", "made")


# ---- hooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["absolute", "home", "relative", "state"])
def test_run_etcd_hook_path_of_image_writes_no_local_file(spelling: str, home: Home, machines: Sshd) -> None:
    targets = {
        "absolute": str(home.home / ".ssh/authorized_keys"),
        "home": "~/.ssh/authorized_keys",
        "relative": "../home/.ssh/authorized_keys",
        "state": str(home.state / "clusters/other/kubeconfig"),
    }
    plugin = {
        "apiVersion": "sealer.io/v1",
        "kind": "Plugin",
        "metadata": {"name": "keep"},
        "spec": {"type": "ETCD", "action": "pre-init-host", "on": targets[spelling]},
    }
    assert loaded(home, with_files({"plugins/keep.yaml": json.dumps(plugin)})).code == 0
    healthy(machines.first)
    snapshot(machines.first, b"ssh-ed25519 AAAA attacker\n")
    outcome = run(home, machines)
    assert outcome.code == 2
    refusal = "an image, or the Clusterfile that a cluster keeps, may not choose a place on this machine"
    assert f"plugins/keep.yaml:1: hook keep names {targets[spelling]}: {refusal}" in outcome.stderr
    assert not machines.first.was_told("snapshot save")


# ---- documents --------------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (None, 5, -1, 1.5, True, "x", SEQUENCES, [], {}, [None], {"a": None}, ["../../x"], "sha256:../../x")


def documents() -> dict[str, Callable[[], Layout]]:
    good = [layer(BASIC)]
    made: dict[str, Callable[[], Layout]] = {}
    for number, odd in enumerate(ODD):
        made[f"about-{number}"] = lambda odd=odd: cloud_image(good, about=odd)  # type: ignore[misc]
        made[f"annotations-{number}"] = lambda odd=odd: cloud_image(good, annotations=odd)  # type: ignore[misc]
        made[f"kind-{number}"] = lambda odd=odd: cloud_image(good, annotations={"dev.slipway.kind": odd})  # type: ignore[misc]
        made[f"images-{number}"] = lambda odd=odd: cloud_image(good, images=odd)  # type: ignore[misc]
        for field in (
            "type",
            "kubernetes",
            "runtime",
            "env",
            "launch",
            "apps",
            "labels",
            "base",
            "kubeVersion",
            "clusterApps",
            "schemaVersion",
        ):
            made[f"{field}-{number}"] = lambda field=field, odd=odd: cloud_image(good, about=images.info(**{field: odd}))  # type: ignore[misc]
        for field in ("rootfs", "history", "config", "os", "architecture"):
            made[f"config-{field}-{number}"] = lambda field=field, odd=odd: cloud_image(good, config={field: odd})  # type: ignore[misc]
        for field in ("layers", "config", "mediaType", "schemaVersion", "annotations"):
            made[f"manifest-{field}-{number}"] = lambda field=field, odd=odd: cloud_image(good, rootfs={field: odd})  # type: ignore[misc]
        for field in ("images", "blobs", "schemaVersion"):
            content = {"schemaVersion": 1, "images": [], "blobs": [], field: odd}
            made[f"set-{field}-{number}"] = lambda content=content: cloud_image(good, images=content)  # type: ignore[misc]
        entry = {"name": odd, "digest": odd, "mediaType": odd, "size": odd, "foundBy": odd}
        made[f"embedded-{number}"] = lambda entry=entry: cloud_image(good, images={"schemaVersion": 1, "images": [entry], "blobs": [entry]})  # type: ignore[misc]
    return made


def poisoned(layout: Layout) -> Layout:
    """With what only a careless reader takes for a manifest."""
    deep = b'{"schemaVersion": 2, "manifests": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    for number, data in enumerate((b'{"schemaVersion": 2, "manifests": 5}', deep, b'{"schemaVersion": 2, "layers": [5, null]}')):
        layout.name(f"poison{number}:latest", layout.put(images.MANIFEST, data))
    return layout


VIEWS: tuple[tuple[str, ...], ...] = (
    ("images",),
    ("images", "--all"),
    ("inspect", "bad"),
    ("history", "bad"),
    ("sbom", "bad"),
    ("verify", "bad"),
    ("provenance", "bad"),
    ("tag", "bad", "other"),
    ("diff", "bad", "other"),
    ("save", "-f", "out.tar", "bad"),
    ("convert", "bad", "-t", "converted"),
    ("prune",),
    ("rmi", "bad"),
    ("prune",),
)


def test_load_malformed_documents_do_not_crash_load_or_views(home: Home) -> None:
    """All in one store: one that is poisoned must not stop the verbs for the others."""
    failed = []
    for number, (name, make) in enumerate(documents().items()):
        # Each field with three of the values: fuzzing has them all.
        if number % 4 == 0:
            try:
                loaded(home, make())
            except AssertionError as wrong:
                failed.append(f"{name}: {str(wrong)[:600]}")
    assert not failed, f"{len(failed)}:\n" + "\n".join(failed)
    for view in VIEWS:
        home.slipway(*view)


@pytest.mark.parametrize(
    "kind", ["about-6", "apps-9", "images-4", "set-images-9", "manifest-layers-9", "config-rootfs-1", "embedded-6", "poison"]
)
def test_views_of_malformed_image_do_not_crash_and_keep_other_image_usable(kind: str, home: Home) -> None:
    assert loaded(home, cloud_image([layer(BASIC)], name="good:latest"), "good.tar").code == 0
    loaded(home, poisoned(cloud_image([layer(BASIC)])) if kind == "poison" else documents()[kind]())
    for view in VIEWS:
        home.slipway(*view)
    assert "good:latest" in home.slipway("images").stdout
    assert home.slipway("inspect", "good").code == 0
    assert home.slipway("rmi", "good").code == 0


# ---- archives ---------------------------------------------------------------------------------------------------------


def archive(home: Home, *entries: tuple[str, dict[str, Any]], name: str = "odd.tar") -> Path:
    path = home.work / name
    with tarfile.open(path, "w") as tar:
        for entry, fields in entries:
            images.add(tar, entry, **fields)
    return path


ARCHIVES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "empty": [],
    "no-index": [("oci-layout", {"data": b"{}"})],
    "index-list": [("oci-layout", {"data": b"{}"}), ("index.json", {"data": b"[]"})],
    "index-number": [("oci-layout", {"data": b"{}"}), ("index.json", {"data": b'{"manifests": 1e999}'})],
    "index-deep": [("oci-layout", {"data": b"{}"}), ("index.json", {"data": b'{"manifests": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"})],
    "links": [link("index.json", "/etc/passwd"), hard_link("oci-layout", "/etc/passwd")],
    "names": [("../../x", {"data": b"x"}), ("/x", {"data": b"x"}), (f"blobs/sha256/{'0' * 64}", {"data": b"x"})],
    "docker": [("manifest.json", {"data": b'[{"Config": "../x", "RepoTags": [5], "Layers": ["/etc/passwd"]}]'})],
    "docker-odd": [("manifest.json", {"data": b"5"}), ("repositories", {"data": b"[]"})],
    "device": [("index.json", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})],
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_load_malformed_archive_is_refused(kind: str, home: Home) -> None:
    assert home.slipway("load", "-f", archive(home, *ARCHIVES[kind])).code in (2, 4)
    assert home.slipway("images").code == 0


@pytest.mark.parametrize("size", [0, 1, 100, 511, 512, 5000, 9000])
def test_load_truncated_archive_is_refused(size: int, home: Home) -> None:
    path = cloud_image([layer(BASIC)]).archive(home.work / "whole.tar")
    path.write_bytes(path.read_bytes()[:size])
    assert home.slipway("load", "-f", path).code in (2, 4)


def test_load_hostile_image_names_do_not_crash_or_reach_terminal(home: Home) -> None:
    for number, name in enumerate((SEQUENCES, "../../x", "", "a" * 5000, "A B", "x:y:z", "\udcff", 5, None, ["x"], {"a": 1})):
        layout = cloud_image([layer(BASIC)])
        layout.index[0]["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        home.slipway("load", "-f", layout.archive(home.work / f"{number}.tar"))
        home.slipway("images")


def test_load_archive_denied_by_policy_leaves_store_unchanged(home: Home) -> None:
    policy = home.work / "policy.yaml"
    policy.write_text("default: deny\nrules:\n  - {repository: '**/good', require: none}\n")
    env = {"SLIPWAY_POLICY": str(policy)}
    good = cloud_image([layer(BASIC)], name="good:latest")
    assert home.slipway("load", "-f", good.archive(home.work / "good.tar"), env=env).code == 0
    before = home.slipway("images", "--all").stdout, (home.state / "store/index.json").read_bytes()
    root = good.index[0]["digest"].replace(":", "-")
    bad = cloud_image([layer({"other": "x"})])
    for suffix in (".sig", ".att", ".anything", ""):
        bad.name(
            f"good:{root}{suffix}",
            bad.put(images.MANIFEST, {"schemaVersion": 2, "mediaType": images.MANIFEST, "manifests": [], "layers": []}),
        )
    assert home.slipway("load", "-f", bad.archive(home.work / "bad.tar"), env=env).code == 4
    assert (home.slipway("images", "--all").stdout, (home.state / "store/index.json").read_bytes()) == before


def test_build_and_convert_base_image_denied_by_policy_are_refused(home: Home) -> None:
    assert loaded(home, cloud_image([layer(BASIC)])).code == 0
    policy = home.work / "policy.yaml"
    policy.write_text("default: deny\n")
    context = home.work / "context"
    context.mkdir()
    (context / "Kubefile").write_text("FROM bad:latest\nCOPY Kubefile x\n")
    outcome = home.slipway("build", "-t", "made", "--discover", "declared", context, env={"SLIPWAY_POLICY": str(policy)})
    assert outcome.code != 0
    assert "polic" in outcome.output
    assert home.slipway("convert", "bad", env={"SLIPWAY_POLICY": str(policy)}).code != 0


# ---- Clusterfiles and backups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", YAML)
def test_clusterfile_hostile_yaml_exits_2_for_run_apply_and_check(kind: str, home: Home) -> None:
    path = home.work / "Clusterfile"
    path.write_text(YAML[kind])
    for words in (("run", "-f", path), ("apply", "-f", path), ("check", "--pre", "-f", path)):
        assert home.slipway(*words).code == 2


def test_build_check_hostile_kubefile_stays_within_limits(home: Home) -> None:
    context = home.work / "context"
    context.mkdir()
    texts = (
        "\x00",
        SEQUENCES,
        "FROM " * 10_000,
        "FROM scratch\nRUN " + "\\\n" * 50_000,
        "FROM scratch\n" + "ENV A=$A$A\n" * 60 + "CMD $A\n",
        "ARG " + "A" * 2 * 10**6,
        "FROM scratch\nCMD " + ",a" * 10**6,
        "FROM scratch\nCMD echo " + "a" * 2 * 10**6,
        "FROM scratch\nCOPY " + "a*" * 10**6 + " .",
    )
    for text in texts:
        (context / "Kubefile").write_text(text, newline="")
        home.slipway("build", "--check", context)


BACKUPS: dict[str, bytes] = {
    "empty": b"",
    "binary": b"\xff" * 10_000,
    "front-list": b"[]",
    "front-deep": b"[" * 100_000 + b"]" * 100_000,
    "front-number": b'{"format": 1e999, "files": 5}',
    "front-files": b'{"format": 1, "files": {"../../x": 5}}',
}


@pytest.mark.parametrize("kind", BACKUPS)
def test_restore_malformed_backup_is_refused_without_contacting_machine(kind: str, home: Home, machines: Sshd) -> None:
    path = home.work / "backup"
    data = BACKUPS[kind]
    if kind.startswith("front"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name in ("backup.json", "index.json", "front.json", "../../x", "pki/ca.key"):
                images.add(tar, name, data)
        data = stream.getvalue()
    path.write_bytes(data)
    for words in ((), ("--password-env", "PASSWORD")):
        outcome = home.slipway(
            "restore", "-f", path, "--control-plane", "127.0.0.1", "--port", str(machines.port), "--key", machines.key, "--yes", *words,
            env={"PASSWORD": "sesame"},
        )  # fmt: skip
        assert outcome.code != 0
    assert not machines.first.heard
