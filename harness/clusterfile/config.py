"""Config documents: files of the rootfs are overwritten, or merged into, before they are rendered."""

from __future__ import annotations

import base64
import difflib
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.clusterfile import Config, serialize, validators
from harness.clusterfile.shapes import ParsedMapping
from harness.clusterfile.validators import FieldError
from harness.clusterfile.yaml_nodes import FaultReport
from harness.errors import Fault, InputError

Tree = Callable[[str], bytes | None] | Mapping[str, bytes]
"""The files of a rootfs by path: a mapping, or a function that returns None for what is not there."""

_TEMPLATES = (".tmpl", ".j2")
_SUFFIXES = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON", ".toml": "TOML"}


def build(document: ParsedMapping, report: FaultReport) -> Config | None:
    metadata, spec = document.get("metadata"), document.get("spec")
    if metadata is None or spec is None:
        return None
    node = spec.at("data")
    if "data" not in spec and (node is spec.node or node.is_null):
        report.fault(spec.node, "data is missing", 'what goes into the file; data: "" for an empty one')
    config = Config(
        name=metadata.get("name", ""),
        path=spec.get("path", ""),
        data=spec.get("data", ""),
        strategy=spec.get("strategy", "overwrite"),
        process=spec.get("process", ()),
        app=spec.get("appName"),
        where=f"{report.file}:{document.node.line}",
    )
    if config.path and (wrong := _wrong(config)):
        report.fault(spec.at("strategy" if config.strategy == "merge" else "process"), wrong.message, wrong.hint)
    return config


def language(path: str) -> str | None:
    """YAML, JSON or TOML, by the ending of the path; that of a template does not count."""
    name = path.removesuffix(".tmpl").removesuffix(".j2")
    return _SUFFIXES.get(posixpath.splitext(name)[1].lower())


def _wrong(config: Config) -> FieldError | None:
    """Check what is possible without the file."""
    written = language(config.path)
    if config.strategy == "merge" and written is None:
        return FieldError(
            f"{config.target} is a text of which slipway knows no structure: nothing can be merged into it",
            "strategy: overwrite; files that end in .yaml, .yml, .json or .toml can be merged into",
        )
    if "toSecret" in config.process and written not in ("YAML", "JSON"):
        return FieldError(f"toSecret puts values into a Secret, and {config.target} holds none", "a file that ends in .yaml")
    return None


def apply_configs(configs: Iterable[Config], tree: Tree) -> dict[str, bytes]:
    """The files that Config documents write, by path relative to the rootfs; each document sees what those before it wrote.

    Comments of a file that is merged into are lost. Raises InputError with all that is wrong.
    """
    changed: dict[str, bytes] = {}
    faults: list[Fault] = []
    read = tree if callable(tree) else tree.get
    for config in configs:
        try:
            validators.inside(config.path)
            existing = changed[config.target] if config.target in changed else read(config.target)
            changed[config.target] = _written(config, existing).encode()
        except FieldError as wrong:
            faults.append(Fault(f"{config.where} Config {config.name}".strip(), wrong.message, wrong.hint))
    if faults:
        raise InputError(faults)
    return changed


def new_files(configs: Iterable[Config], present: Iterable[str]) -> tuple[Fault, ...]:
    """A message for each file that a Config makes and the image does not have; the hint is the most similar name that exists.

    ``present`` are the paths of the image's files, relative to the rootfs.
    """
    paths = set(present)
    new: dict[str, Fault] = {}
    for config in configs:
        path = config.target
        if path in paths or path in new or any(f"{path}{ending}" in paths for ending in _TEMPLATES):
            continue
        beside = [name for name in paths if posixpath.dirname(name) == posixpath.dirname(path)]
        near = difflib.get_close_matches(path, beside, n=1) or difflib.get_close_matches(path, paths, n=1)
        hint = f"did you mean {near[0]}?" if near else None
        new[path] = Fault(f"{config.where} Config {config.name}".strip(), f"the image has no {path}: the file is new", hint)
    return tuple(new.values())


def _written(config: Config, existing: bytes | None) -> str:
    if config.redacted:
        raise FieldError(f"the data for {config.target} was not kept, since it may hold a secret", "give the Clusterfile again: -f")
    if wrong := _wrong(config):
        raise wrong
    data = _processed(config)
    if "toSecret" in config.process:
        return _into_secret(config, data, existing)
    if config.strategy == "merge" and existing is not None:
        return _merged(config, data, existing)
    return data if isinstance(data, str) else _text(data, config)


def _text(data: Any, config: Config) -> str:
    """Data as the file's own language has it."""
    written = language(config.path)
    try:
        if written == "TOML":
            return serialize.write_toml(data)
        return serialize.write_json(data) if written == "JSON" else serialize.write_yaml(data)
    except ValueError as wrong:
        raise FieldError(f"the data for {config.target}: {wrong}") from wrong


# ---- process ----------------------------------------------------------------------------------------------------------


def _processed(config: Config) -> str | Any:
    """The data after all steps but toSecret."""
    data: Any = config.data
    each = False
    for step in config.process:
        if step == "value":
            each = True
        elif step != "toSecret":
            convert = _to_json if step == "toJson" else _to_base64
            data = (
                {key: convert(value, config) for key, value in _mapping(data, config).items()}
                if each
                else convert(data, config, whole=True)
            )
    return data


def _to_json(value: Any, config: Config, *, whole: bool = False) -> str:
    return serialize.compact_json(_one_document(value, config) if whole and isinstance(value, str) else value)


def _to_base64(value: Any, config: Config, *, whole: bool = False) -> str:
    if isinstance(value, Mapping | list):
        if not whole:
            raise FieldError("toBase64 takes text, and a value is a mapping or a list", "process: value|toJson|toBase64")
        value = _text(value, config)
    return base64.b64encode(_scalar(value).encode()).decode()


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else serialize.compact_json(value)


def _mapping(data: Any, config: Config) -> Mapping[str, Any]:
    mapping = _one_document(data, config) if isinstance(data, str) else data
    if not isinstance(mapping, Mapping):
        raise FieldError(f"the data for {config.target} must be a mapping", "key: value")
    return mapping


def _one_document(text: str, config: Config) -> Any:
    """Data that was written as text. A text that ends as TOML may be TOML."""
    if language(config.path) == "TOML":
        try:
            return serialize.read_toml(text)
        except ValueError as wrong:
            reason = str(wrong)
        try:
            documents = serialize.read_documents(text)
        except ValueError:
            documents = []
        if len(documents) == 1 and isinstance(documents[0], Mapping):
            return documents[0]
        raise FieldError(f"the data for {config.target} is neither TOML nor a mapping: {reason}")
    try:
        documents = serialize.read_documents(text)
    except ValueError as wrong:
        raise FieldError(f"the data for {config.target} is not YAML: {wrong}") from wrong
    if len(documents) > 1:
        raise FieldError(f"the data for {config.target} are {len(documents)} documents", "one Config for each")
    return documents[0] if documents else {}


# ---- merge ------------------------------------------------------------------------------------------------------------


def deep_merge(existing: Any, data: Any) -> Any:
    """Mappings are joined, key by key; anything else, lists too, is replaced."""
    if not isinstance(existing, Mapping) or not isinstance(data, Mapping):
        return data
    return {**existing, **{key: deep_merge(existing[key], value) if key in existing else value for key, value in data.items()}}


def _merged(config: Config, data: str | Any, existing: bytes) -> str:
    """Data merged into a file; into each document, when it has several."""
    written = language(config.path)
    if written == "YAML":
        both = f"{_decoded(config, existing)}\n\0{data if isinstance(data, str) else serialize.write_yaml(data)}"
        protected, restore = serialize.protect(both)
        file, _, new = protected.partition("\n\0")
        values = _mapping(new, config)
        return restore(serialize.write_documents([deep_merge(document, values) for document in _documents(config, file)] or [values]))
    values = _mapping(data, config)
    read = serialize.read_toml if written == "TOML" else serialize.read_json
    try:
        current = read(_decoded(config, existing)) if existing.strip() else {}
    except ValueError as wrong:
        raise FieldError(f"{config.target} of the image is not {written}: {wrong}", "strategy: overwrite") from wrong
    if not isinstance(current, Mapping):
        raise FieldError(f"{config.target} of the image holds no mapping", "strategy: overwrite")
    return _text(deep_merge(current, values), config)


def _decoded(config: Config, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as wrong:
        raise FieldError(f"{config.target} of the image is not text", "strategy: overwrite") from wrong
    if "\0" in text:
        raise FieldError(f"{config.target} of the image is not text", "strategy: overwrite")
    return text


def _documents(config: Config, text: str) -> list[Mapping[str, Any]]:
    try:
        documents = serialize.read_documents(text)
    except ValueError as wrong:
        raise FieldError(f"{config.target} of the image is not YAML: {wrong}", "strategy: overwrite") from wrong
    for document in documents:
        if not isinstance(document, Mapping):
            raise FieldError(f"{config.target} of the image holds something else than mappings", "strategy: overwrite")
    return documents


def _into_secret(config: Config, data: str | Any, existing: bytes | None) -> str:
    """The values in ``data`` of the Secret that the file holds. They are base64 there, whether a step has made them so or not."""
    if existing is None:
        raise FieldError(f"toSecret: the image has no {config.target}", "a Secret with its name must be there for values to go into")
    ready = "toBase64" in config.process
    values = {key: _scalar(value) if ready else _to_base64(value, config) for key, value in _mapping(data, config).items()}
    protected, restore = serialize.protect(_decoded(config, existing))
    documents = _documents(config, protected)
    secrets = [document for document in documents if document.get("kind") == "Secret"]
    if not secrets:
        raise FieldError(f"toSecret: {config.target} of the image holds no Secret", "kind: Secret must be in it")
    merged = [deep_merge(document, {"data": values}) if document in secrets else document for document in documents]
    if language(config.path) == "JSON":
        return restore(serialize.write_json(merged[0]))
    return restore(serialize.write_documents(merged))
