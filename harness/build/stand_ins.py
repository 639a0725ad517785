"""Stand-ins: values for the throw-away cluster of a build in place of those that are known only when the image runs.

Kubernetes refuses a name where a port stands, so a stand-in fits the place of its placeholder: the keys around it in the manifest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from harness.cloudimage import ExpectedValue, ValueType
from harness.cloudimage.values import BOOLEAN, INTEGER, NUMBER
from harness.templates.plain import Placeholder

_PORT = ValueType(INTEGER, minimum=1, maximum=65535)


@dataclasses.dataclass(frozen=True)
class StandInPlace:
    """The kind of text that fits the place of a placeholder."""

    kind: str
    type: ValueType = ValueType()  # noqa: RUF009 - it is frozen
    """The type that Kubernetes takes there, as far as the keys say it for certain."""
    first: int | None = None
    """Stand-ins are counted from this number, so that no two are equal: two ports of a Service may not be."""
    text: str | None = None
    """The stand-in, where it is no number that is counted; None for a DNS name."""


NAME = StandInPlace("name")
IMAGE = StandInPlace("image")
"""A container image, which nothing can stand in for."""
_STRINGS = frozenset({"annotations", "binaryData", "data", "labels", "matchLabels", "nodeSelector", "stringData"})
"""Below them every value is text, whatever its key."""
_PLACES: Mapping[str, StandInPlace] = {
    **dict.fromkeys(("nodePort", "healthCheckNodePort"), StandInPlace("nodePort", ValueType(INTEGER, minimum=30000, maximum=32767), 31080)),
    **dict.fromkeys(("containerPort", "hostPort"), StandInPlace("port", _PORT, 18080)),
    # Names of ports are taken there, too.
    **dict.fromkeys(("targetPort", "port"), StandInPlace("port", first=18080)),
    **dict.fromkeys(
        ("replicas", "minReplicas", "maxReplicas", "parallelism", "completions"),
        StandInPlace("number", ValueType(INTEGER, minimum=0), text="1"),
    ),
    **dict.fromkeys(
        ("backoffLimit", "failureThreshold", "minReadySeconds", "periodSeconds", "revisionHistoryLimit", "successThreshold",
         "timeoutSeconds", "weight"),
        StandInPlace("number", ValueType(INTEGER), text="1"),
    ),
    **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), StandInPlace("number", ValueType(INTEGER, minimum=0), text="1000")),
    "defaultMode": StandInPlace("number", ValueType(INTEGER), text="420"),
    **dict.fromkeys(
        ("allowPrivilegeEscalation", "automountServiceAccountToken", "enableServiceLinks", "hostIPC", "hostNetwork", "hostPID", "immutable",
         "optional", "privileged", "publishNotReadyAddresses", "readOnly", "readOnlyRootFilesystem", "runAsNonRoot",
         "shareProcessNamespace", "stdin", "suspend", "tty"),
        StandInPlace("bool", ValueType(BOOLEAN), text="true"),
    ),
    "cpu": StandInPlace("quantity", text="50m"),
    "memory": StandInPlace("quantity", text="64Mi"),
    **dict.fromkeys(("storage", "ephemeral-storage", "sizeLimit"), StandInPlace("quantity", text="1Gi")),
    "cidr": StandInPlace("cidr", text="192.0.2.0/24"),
    **dict.fromkeys(("ip", "hostIP", "loadBalancerIP"), StandInPlace("ip", text="192.0.2.1")),
    "clusterIP": StandInPlace("ip", text="None"),
    "schedule": StandInPlace("schedule", text="0 0 1 1 *"),
    "imagePullPolicy": StandInPlace("word", text="IfNotPresent"),
    "protocol": StandInPlace("word", text="TCP"),
    "accessModes": StandInPlace("word", text="ReadWriteOnce"),
    "image": IMAGE,
}  # fmt: skip
_SECONDS = StandInPlace("number", ValueType(INTEGER, minimum=0), text="10")
_KINDS = ("image", "nodePort", "port", "bool", "number", "quantity", "cidr", "ip", "schedule", "word", "name")
"""The narrowest first: one value at two places must do for both."""


def place_of(placeholder: Placeholder) -> StandInPlace:
    """The place that the keys around a placeholder make. A part of a text, and what is in quotes, is text; a part of an image is one."""
    keys = placeholder.keys
    if keys[-1:] == ("image",) and not _STRINGS & set(keys):
        return IMAGE
    if not placeholder.whole or not keys or _STRINGS & set(keys[:-1]) or keys[-1] in _STRINGS:
        return NAME
    key = keys[-1]
    if key == "port" and "ports" in keys[:-1]:
        return dataclasses.replace(_PLACES["port"], type=_PORT)
    return _PLACES.get(key) or (_SECONDS if key.endswith("Seconds") else NAME)


def narrowest(places: Iterable[StandInPlace]) -> StandInPlace:
    """The one of several places of a value that takes the least."""
    return min(places, key=lambda place: (_KINDS.index(place.kind), place.type == ValueType()), default=NAME)


def stand_in(value: ExpectedValue, place: StandInPlace, number: int, examples: Sequence[str] = ()) -> str | None:
    """A value for the place, the ``number``-th of the image; None where nothing can be made up.

    ``examples`` are those of the author.
    """
    wanted = value.type
    candidates = [*examples, *wanted.enum]
    if place.kind == IMAGE.kind:
        return next((text for text in candidates if wanted.problem(text) is None), None)
    if place.first is not None:
        candidates.append(str(place.first + number))
    elif place.text is not None:
        candidates.append(place.text)
    if wanted.type in (INTEGER, NUMBER):
        candidates += [f"{bound:g}" for bound in (wanted.minimum, wanted.maximum) if bound is not None] + ["1"]
    elif wanted.type == BOOLEAN:
        candidates.append("true")
    label = re.sub(r"[^a-z0-9]+", "-", value.name.lower()).strip("-")
    # Names of ports have at most 15 letters.
    candidates.append(f"x{number}-{label}"[:15].rstrip("-"))
    return next((text for text in candidates if wanted.problem(text) is None), None)
