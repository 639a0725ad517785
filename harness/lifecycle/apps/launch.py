"""Launch commands of applications: run them, watch the objects that they create, and remove these."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from harness import assets
from harness.errors import CommandError
from harness.lifecycle.apps import records, tracking
from harness.lifecycle.apps.target import AppTarget
from harness.lifecycle.apps.tracking import TrackedObject
from harness.lifecycle.kube import objects as kube_objects
from harness.lifecycle.kube import readiness
from harness.lifecycle.steps import launch
from harness.nodes import Node
from harness.nodes.files import Files, tar_stream, write_files

# ---- launching -------------------------------------------------------------------------------------------------------


def send_tree(node: Node, tree: Path, files: Files, folder: str) -> None:
    """Replace a folder with an unpacked rootfs and its rendered files."""

    def root_owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    def write(stream: BinaryIO) -> None:
        with tar_stream(stream) as tar:
            tar.add(whole, arcname=".", filter=root_owned)

    with tempfile.TemporaryDirectory(prefix="slipway-app-") as scratch:
        whole = Path(scratch, "rootfs")
        shutil.copytree(tree, whole, symlinks=True)
        for path, file in files.items():
            target = whole / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes(file.data)
            target.chmod(file.mode)
        node.run(assets.script("receive_tree", folder=folder, umask="077"), input=write, timeout=3600)


def run(target: AppTarget, node: Node, name: str, command: str, env: Mapping[str, str], what: str) -> str:
    """Run shell text in the rootfs of an application as the cluster's administrator, with its notes open; return the output.

    The environment is sent in a file that only its owner can read: it may hold secrets.
    """
    folder = f"{target.root}/{name}"
    write_files(node, tracking.programs(f"{folder}/programs"))
    exports = launch.exports({**env, "KUBECONFIG": target.kubectl.kubeconfig, "SLIPWAY_NOTES": folder})
    script = f"""{assets.script("launch_begin", folder=folder)}{exports}export SLIPWAY_PATH="$SLIPWAY_NOTES/rootfs/bin:{target.path}"
export PATH="$SLIPWAY_NOTES/programs:$SLIPWAY_PATH"
{{ {command}
}} 9<&-
"""
    return launch.run_script(node, script, command, f"{folder}/", what)


def open_notes(node: Node, folder: str, generation: str, objects: Sequence[TrackedObject]) -> None:
    """Open the notes of a launch, with the objects of earlier ones, which another node may have launched."""
    script = f"""umask 077; mkdir -p {shlex.quote(folder)}; cd {shlex.quote(folder)} || exit 1
[ "$(cat generation 2>/dev/null)" = {generation} ] || {{ : > touched; echo {generation} > generation; }}
touch objects touched
cat > known; while IFS= read -r line; do grep -qxF -e "$line" objects || printf '%s\\n' "$line" >> objects; done < known; rm -f known"""
    node.run(script, input=tracking.text(objects))


def read_notes(node: Node, folder: str) -> tuple[TrackedObject, ...]:
    return tracking.parse(node.run(f"cat {shlex.quote(folder)}/objects 2>/dev/null || true").stdout)


# ---- watching --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class OwnedObjects:
    """A KubectlRunner that shows only the objects that an application created, and those that these own."""

    kubectl: Any
    objects: Sequence[TrackedObject]

    def run(self, *argv: str) -> str:
        text = str(self.kubectl.run(*argv))
        if argv[:2] != ("get", readiness.KINDS):
            return text
        items = kube_objects.objects(text, where=getattr(self.kubectl, "where", "the cluster"))
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": self.among(items)})

    def among(self, items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The application's objects, with the storage classes that claims wait for."""
        created = {(each.kind, each.namespace, each.name) for each in self.objects if not each.is_release}
        releases = {(each.namespace, each.name) for each in self.objects if each.is_release}
        owned: set[str] = set()

        def is_owned(item: Mapping[str, Any]) -> bool:
            meta = item["metadata"]
            annotations = meta.get("annotations") or {}
            owners = {str(owner.get("uid")) for owner in meta.get("ownerReferences") or ()}
            return (
                (item.get("kind"), str(meta.get("namespace") or ""), meta["name"]) in created
                or (annotations.get("meta.helm.sh/release-namespace"), annotations.get("meta.helm.sh/release-name")) in releases
                or bool(owners & owned)
            )

        # Owners may be listed after what they own.
        while True:
            more = {str(item["metadata"].get("uid")) for item in items if is_owned(item)} - owned
            if not more:
                break
            owned |= more
        return [item for item in items if str(item["metadata"].get("uid")) in owned or item.get("kind") == "StorageClass"]


# ---- removing --------------------------------------------------------------------------------------------------------


def remove_objects(target: AppTarget, node: Node, name: str, objects: Sequence[TrackedObject], timeout: float) -> tuple[TrackedObject, ...]:
    """Remove objects and releases in reverse order of creation, and wait until they are gone. Objects that do not exist are skipped.

    Returns those that stay because another application uses them. Raises CommandError for one that is not removed.
    """
    others = {each.words for app in records.listed(target.kubectl) if app.name != name for each in app.objects}
    kept = tuple(each for each in objects if each.words in others)
    for batch in tracking.batches([each for each in objects if each not in kept]):
        if batch.release is not None:
            _uninstall(target, node, name, batch.release)
        else:
            tracking.delete(target.kubectl, batch.objects, timeout)
    return kept


def _uninstall(target: AppTarget, node: Node, name: str, release: TrackedObject) -> None:
    program = f"PATH={shlex.quote(f'{target.root}/{name}/rootfs/bin')}:{target.path}"
    at = f"--namespace {shlex.quote(release.namespace)}"
    script = f"""export KUBECONFIG={shlex.quote(target.kubectl.kubeconfig)} HOME={shlex.quote(target.kubectl.home)} {program}
command -v helm > /dev/null || {{ echo 'there is no helm' >&2; exit 1; }}
helm status {shlex.quote(release.name)} {at} > /dev/null 2>&1 || exit 0
helm uninstall {shlex.quote(release.name)} {at}"""
    try:
        node.run(script, timeout=900)
    except CommandError as error:
        raise CommandError(f"{release}: could not be removed", hint="run the same command again", details=error.details) from error
