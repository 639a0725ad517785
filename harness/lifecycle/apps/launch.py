"""What launch commands of applications are run with, and how what they made is seen and taken back."""

from __future__ import annotations

import dataclasses
import json
import re
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
from harness.lifecycle.apps.target import Target
from harness.lifecycle.apps.tracking import Object
from harness.lifecycle.kube import objects as kubeobjects
from harness.lifecycle.kube import readiness
from harness.lifecycle.plan import digest
from harness.nodes import Node
from harness.nodes.files import Files, tar_stream, write_files

# ---- launching -------------------------------------------------------------------------------------------------------


def send_tree(node: Node, tree: Path, files: Files, folder: str) -> None:
    """Put an unpacked rootfs with its rendered files into a folder, in place of what is there."""

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


def run(target: Target, node: Node, name: str, command: str, env: Mapping[str, str], what: str) -> str:
    """Run shell text in the rootfs of an application as the cluster's administrator, with its notes open; what it says.

    The environment goes by a file that only its owner can read: it may hold secrets.
    """
    folder = f"{target.root}/{name}"
    write_files(node, tracking.programs(f"{folder}/programs"))
    variables = {key: value for key, value in sorted(env.items()) if re.fullmatch(r"[A-Za-z_]\w*", key)}
    variables |= {"KUBECONFIG": target.kubectl.kubeconfig, "SLIPWAY_NOTES": folder}
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    script = f"""{assets.script("launch_begin", folder=folder)}{exports}export SLIPWAY_PATH="$SLIPWAY_NOTES/rootfs/bin:{target.path}"
export PATH="$SLIPWAY_NOTES/programs:$SLIPWAY_PATH"
{{ {command}
}} 9<&-
"""
    path = f"{folder}/launch-{digest(command)}.sh"
    node.put(script.encode(), path, 0o600)
    try:
        return node.run(f"exec $(command -v bash || command -v sh) {shlex.quote(path)} < /dev/null", timeout=3600).stdout
    except CommandError as error:
        raise CommandError(f"{node.name}: {what} failed: {command.strip()}", hint=error.hint, details=error.details) from error
    finally:
        node.run(f"rm -f {shlex.quote(path)}", check=False)


# ---- seeing ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ours:
    """A Kubectl that shows, of all that is judged, only what an application made, and what came of that."""

    kubectl: Any
    objects: Sequence[tracking.Object]

    def run(self, *argv: str) -> str:
        text = str(self.kubectl.run(*argv))
        if argv[:2] != ("get", readiness.KINDS):
            return text
        found = kubeobjects.objects(text, where=getattr(self.kubectl, "where", "the cluster"))
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": self.among(found)})

    def among(self, items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those of ours, with storage classes, which say what claims wait for."""
        made = {(one.kind, one.namespace, one.name) for one in self.objects if not one.is_release}
        releases = {(one.namespace, one.name) for one in self.objects if one.is_release}
        ours: set[str] = set()

        def is_ours(item: Mapping[str, Any]) -> bool:
            meta = item["metadata"]
            notes = meta.get("annotations") or {}
            owners = {str(one.get("uid")) for one in meta.get("ownerReferences") or ()}
            return (
                (item.get("kind"), str(meta.get("namespace") or ""), meta["name"]) in made
                or (notes.get("meta.helm.sh/release-namespace"), notes.get("meta.helm.sh/release-name")) in releases
                or bool(owners & ours)
            )

        # Owners come before what they own, however they are listed.
        while True:
            more = {str(item["metadata"].get("uid")) for item in items if is_ours(item)} - ours
            if not more:
                break
            ours |= more
        return [item for item in items if str(item["metadata"].get("uid")) in ours or item.get("kind") == "StorageClass"]


# ---- taking back -----------------------------------------------------------------------------------------------------


def take_back(target: Target, node: Node, name: str, objects: Sequence[Object], timeout: float) -> tuple[Object, ...]:
    """Remove objects and releases, last made first removed, and wait until they are gone. What is gone already is no fault.

    Returns those that stay because another application uses them. Raises CommandError for what does not go.
    """
    others = {one.words for app in records.listed(target.kubectl) if app.name != name for one in app.objects}
    kept = tuple(one for one in objects if one.words in others)
    for batch in tracking.batches([one for one in objects if one not in kept]):
        if batch.release is not None:
            _uninstall(target, node, name, batch.release)
        else:
            tracking.delete(target.kubectl, batch.objects, timeout)
    return kept


def _uninstall(target: Target, node: Node, name: str, release: Object) -> None:
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
