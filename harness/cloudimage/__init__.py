"""The CloudImage, format v1: rootfs layers, the container images a cluster needs, and how to launch it, as one OCI artifact.

A tag names an image index with the annotation ``dev.slipway.kind: cloudimage``. For each platform it lists two manifests:

1. the **rootfs**, an ordinary image manifest: any tool unpacks it, ``docker pull`` gives it. Its annotation
   ``dev.slipway.cloudimage`` is the JSON of an Info.
2. the **image set** (annotation ``dev.slipway.kind: imageset``): its config lists the images under their original names and
   the media type of every blob; its layers are those blobs, byte for byte, each once, under one neutral media type.

There is no ``artifactType``, and no blob stands under its own manifest media type: the first makes skopeo rewrite the index,
the second makes oras crash.
"""

from __future__ import annotations

from harness.cloudimage.model import (
    BLOB,
    CLOUDIMAGE,
    IMAGESET,
    IMAGESET_CONFIG,
    INFO,
    KIND,
    Blob,
    BuiltHere,
    CloudImage,
    EmbeddedImage,
    History,
    ImageApp,
    ImageSet,
    Info,
    PlatformImage,
    ProvingRun,
)
from harness.cloudimage.reader import read, verify
from harness.cloudimage.values import ExpectedValue, ValueType
from harness.cloudimage.writer import write

__all__ = [
    "BLOB",
    "CLOUDIMAGE",
    "IMAGESET",
    "IMAGESET_CONFIG",
    "INFO",
    "KIND",
    "Blob",
    "BuiltHere",
    "CloudImage",
    "EmbeddedImage",
    "ExpectedValue",
    "History",
    "ImageApp",
    "ImageSet",
    "Info",
    "PlatformImage",
    "ProvingRun",
    "ValueType",
    "read",
    "verify",
    "write",
]
