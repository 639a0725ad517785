"""Differences between CloudImages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from harness import log, untrusted
from harness.cli.options import OnePlatform, Output, RegistryOptions, local_images, platform_of
from harness.cli.output import local_store, short
from harness.cli.registry import connect
from harness.cli.root import app

if TYPE_CHECKING:
    from harness.cloudimage.diff import Difference, ImageChange
    from harness.cloudimage.diff_side import Side
    from harness.oci.registry.client import Client

_MARKS = {"added": "+", "removed": "-", "changed": "~"}
_STYLES = {"+": "green", "-": "red", "~": "yellow", "@": "cyan"}

_HELP = "A CloudImage of the local store, else of the registry in its name. docker://NAME: always in the registry."
Old = Annotated[str, local_images(_HELP, "OLD")]
New = Annotated[str, local_images("As OLD.", "NEW")]


@app.command(short_help="Compare two CloudImages.")
def diff(
    *,
    old: Old,
    new: New,
    platform: OnePlatform = None,
    content: Annotated[bool, typer.Option("--content", help="Show the changed lines of small text files.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if they differ, as git does; else with 0.")] = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Compare two CloudImages, and show how many bytes a site that has OLD needs for NEW.

    For an image in a registry, only manifests and configs are read. Files are compared if the store has the layers, otherwise
    layers are.
    """
    from harness.cloudimage import diff as cloudimage_diff
    from harness.cloudimage.diff_side import find

    wanted = platform_of(platform) if platform else None
    store = local_store()
    with contextlib.ExitStack() as stack:
        opened: list[Client] = []

        def client() -> Client:
            if not opened:
                opened.append(stack.enter_context(connect(to, briefly=True)))
            return opened[0]

        sides = [find(store, name, client) for name in (old, new)]
    difference = cloudimage_diff.compare(store, *sides, platform=wanted, content=content)
    if not output.printed(difference.to_json()):
        _show(difference)
    if exit_code and not difference.equal:
        raise typer.Exit(1)


def _show(difference: Difference) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for word, side in (("old", difference.old), ("new", difference.new)):
        console.print(_clean(f"{word}  {_where(side)}  {side.image.digest}  {log.size(side.image.size)}"))
    if difference.equal:
        console.print("they are the same")
        return
    for part in difference.platforms:
        console.print(_clean(f"platform {part.platform}"), style="bold")
        if part.only:
            console.print(f"  only the {part.only} one {'was pulled with it' if part.absent else 'is made for it'}")
            continue
        for change in part.changes:
            mark = _MARKS[change.what]
            console.print(Text(_clean(f"{mark} {change.kind:<10}  {_words(change)}"), style=_STYLES[mark]))
            for line in (change.text or "").split("\n")[:-1]:
                console.print(Text(_clean(f"    {line}"), style=_STYLES.get(line[:1], "")))
        if not part.files:
            console.print("  files were not compared: pull both images to see which changed", style="dim")
        elif not part.changes:
            console.print("  nothing changed", style="dim")
    sent = difference.transfer
    console.print(f"to send  {log.size(sent.bytes)} in {sent.blobs} blobs; {log.size(sent.shared_bytes)} in {sent.shared_blobs} are shared")


def _clean(text: str) -> str:
    """One line, whatever a stranger's image holds: no escape sequences for our terminal."""
    return untrusted.shown(text, lines=True).replace("\n", "\\n")


def _where(side: Side) -> str:
    return side.name if side.where == "store" else f"{side.name} (in the registry)"


def _words(change: ImageChange) -> str:
    word = _WORDS.get(change.kind)
    return word(change) if word else _arrow(change, _plain)


def _plain(value: Any) -> str:
    return ", ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, dict) else str(value)


def _arrow(change: ImageChange, word: Any) -> str:
    return " -> ".join(str(word(value)) for value in (change.old, change.new) if value is not None)


def _value(change: ImageChange) -> str:
    if change.old is None or change.new is None:
        return "required" if (change.new or change.old)["required"] else "not required"
    return ", ".join(sorted(key for key in {*change.old, *change.new} if change.old.get(key) != change.new.get(key)))


def _app(change: ImageChange) -> str:
    if change.old is None or change.new is None:
        return str((change.old or change.new)["kind"])
    return ", ".join(key for key in change.new if change.old.get(key) != change.new[key])


def _image(change: ImageChange) -> str:
    def size(image: dict[str, Any]) -> str:
        return f" {log.size(image['size'])}" if image["size"] is not None else ""

    if change.old is None or change.new is None:
        image = change.new or change.old
        return f"{image['name']}  {short(image['digest'])}{size(image)}"
    by_version = change.old["version"] != change.new["version"]
    word = (lambda image: f"{image['version']}{size(image)}") if by_version else (lambda image: f"{short(image['digest'])}{size(image)}")
    return f"{change.name}  {_arrow(change, word)}"


def _file(change: ImageChange) -> str:
    if change.old is None or change.new is None:
        return _one_file(change.new or change.old)
    old, new = change.old, change.new
    if old["kind"] != new["kind"]:
        return _arrow(change, _one_file)
    words = []
    if old["mode"] != new["mode"]:
        words.append(f"{old['mode']} -> {new['mode']}")
    if old.get("digest") != new.get("digest"):
        words.append(f"{log.size(old['size'])} -> {log.size(new['size'])}")
    if old.get("target") != new.get("target"):
        words.append(f"{old['target']} -> {new['target']}")
    return ", ".join(words)


def _one_file(file: dict[str, Any]) -> str:
    match file["kind"]:
        case "file":
            return f"{file['mode']} {log.size(file['size'])}"
        case "symlink":
            return f"link to {file['target']}"
        case _:
            return f"{file['kind']} {file['mode']}"


_WORDS: Mapping[str, Callable[[ImageChange], str]] = {
    "env": lambda change: f"{change.name}={_arrow(change, str)}",
    "label": lambda change: f"{change.name}={_arrow(change, str)}",
    "value": lambda change: f"{change.name}  {_value(change)}",
    "launch": lambda change: change.name,
    "step": lambda change: change.name,
    "clusterApp": lambda change: change.name,
    "app": lambda change: f"{change.name}  {_app(change)}",
    "image": _image,
    "file": lambda change: f"{change.name}  {_file(change)}",
    "layer": lambda change: f"{short(change.name)}  {_arrow(change, lambda layer: log.size(layer['size']))}",
    "base": lambda change: _arrow(change, lambda base: f"{base['reference']}@{short(base['digest'])}"),
}
"""The text for a kind of change; other kinds show their values."""
