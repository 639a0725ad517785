"""The meaning of the annotations of sealer's images (its ``pkg/define/image/v1``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError
from harness.oci.model import Platform

EXTENSION = "sealer.image.extension"
CONTAINER_IMAGES = "sealer.image.container.images"

SCHEMA = "v1alpha1"
TYPES = {"kube-installer": "kube", "app-installer": "app"}


@dataclasses.dataclass(frozen=True)
class SealerApplication:
    """An application as sealer notes it. ``files`` are those that are launched, below ``application/apps/<name>``."""

    name: str
    kind: str
    files: tuple[str, ...]
    version: str
    env: Mapping[str, str]
    commands: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Extension:
    """The annotation ``sealer.image.extension``."""

    sealer: str
    buildah: str
    schema: str
    type: str
    """``kube-installer`` or ``app-installer``."""
    applications: tuple[SealerApplication, ...]
    labels: Mapping[str, str]
    env: Mapping[str, str]
    launch_commands: tuple[str, ...]
    launch_apps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Extension:
        """Raises ValueError that says what is wrong with it."""
        value = _json(text)
        if not isinstance(value, dict):
            raise ValueError("is not a JSON object")
        client, launch = _object(value, "buildClient"), _object(value, "launch")
        if value.get("type") not in TYPES:
            raise ValueError(f"has the type {value.get('type')!r}; known are {' and '.join(TYPES)}")
        return cls(
            sealer=str(client.get("sealerVersion") or ""),
            buildah=str(client.get("buildahVersion") or ""),
            schema=str(value.get("schemaVersion") or ""),
            type=str(value["type"]),
            applications=tuple(_application(application) for application in _list(value, "applications")),
            labels=_texts_by_name(value, "labels"),
            env=_texts_by_name(value, "env"),
            launch_commands=_texts(launch, "cmds"),
            launch_apps=_texts(launch, "app_names"),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "sealerVersion": self.sealer,
            "buildahVersion": self.buildah,
            "schemaVersion": self.schema,
            "type": self.type,
            "applications": [
                {**dataclasses.asdict(application), "files": list(application.files), "commands": list(application.commands)}
                for application in self.applications
            ],
            "env": dict(self.env),
            "launch": {"commands": list(self.launch_commands), "applications": list(self.launch_apps)},
        }


@dataclasses.dataclass(frozen=True)
class ListedImage:
    """An entry of ``sealer.image.container.images``: the name as it was written, and the application that wants it."""

    image: str
    app: str = ""
    platform: Platform | None = None


def container_images(text: str) -> tuple[ListedImage, ...]:
    """The annotation ``sealer.image.container.images``. Raises ValueError that says what is wrong with it."""
    value = _json(text)
    if not isinstance(value, list) or not all(isinstance(entry, dict) and isinstance(entry.get("image"), str) for entry in value):
        raise ValueError("is not a JSON list of objects that name an image")
    return tuple(ListedImage(entry["image"], str(entry.get("appName") or ""), _platform(entry.get("platform"))) for entry in value)


def _platform(value: Any) -> Platform | None:
    platform = Platform.from_json(value) if isinstance(value, dict) else None
    return platform if platform and platform.os and platform.architecture else None


def _json(text: str) -> Any:
    try:
        return untrusted.json_document(text, what="")
    except StoreError as wrong:
        raise ValueError(wrong.message) from wrong


def _application(value: Any) -> SealerApplication:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError("has an application without a name")
    # 0.9.0 wrote the files under another name.
    files = _texts(value, "files") or _texts(value, "launchfiles")
    return SealerApplication(
        value["name"], str(value.get("type") or ""), files, str(value.get("version") or ""),
        _texts_by_name(value, "env"), _texts(value, "cmds"),
    )  # fmt: skip


def _object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    member = value.get(key)
    if member is not None and not isinstance(member, dict):
        raise ValueError(f"has a {key} that is not an object")
    return member or {}


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    member = value.get(key)
    if member is not None and not isinstance(member, list):
        raise ValueError(f"has {key} that are not a list")
    return member or []


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = _list(value, key)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"has something in {key} that is not text")
    return tuple(texts)


def _texts_by_name(value: Mapping[str, Any], key: str) -> dict[str, str]:
    texts = _object(value, key)
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"has something in {key} that is not text")
    return dict(sorted(texts.items()))
