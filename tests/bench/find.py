"""Images found by reading, possible ones included, beside a plain recursive search for ``image:`` keys in the same files.

The inputs are the kubefiles, and the cases in ``tests/cases/strangers`` with what each needs. The figures are shares of the needed
images that were missed, and false ones: nothing here is a time. The kubefiles ``kubernetes`` and ``conformance`` are not among them, since
their images are in lists that their builds write; ``operator`` is, although its second image has its name only while it runs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import kubefile
from harness.build import dry_run
from harness.errors import InputError
from harness.host import tools
from harness.oci.reference import Reference

PROJECT = Path(__file__).parents[2]
CASES = PROJECT / "tests/cases/strangers"
SMOKE = {"install": False}
NGINX, REDIS = "slipway.dev/nginx:1.22", "slipway.dev/redis:7.0"
KUBEFILES: Mapping[str, tuple[str, ...]] = {
    "chart": (NGINX, REDIS),
    "middleware": ("docker.io/library/zookeeper:3.9", "slipway.dev/visits:1"),
    "mysql-cluster": ("docker.io/library/mariadb:11.8",),
    "observability": (
        *(f"docker.io/victoriametrics/{name}:v1.151.0" for name in ("victoria-metrics", "vmagent", "vmalert", "vmauth")),
        *(f"docker.io/victoriametrics/{name}:v1.52.2" for name in ("victoria-logs", "vlagent")),
        "quay.io/prometheus/node-exporter:v1.12.1",
        "slipway.dev/alertmanager:0.25",
        "slipway.dev/configmap-files:1",
    ),
    "operator": (NGINX, REDIS),
    "postgres-ha": ("docker.io/edoburu/pgbouncer:v1.24.1-p1", "ghcr.io/zalando/spilo-17:4.0-p3"),
    "rabbitmq": ("docker.io/library/rabbitmq:4.0",),
    "redis": (REDIS,),
    "redis-ha": ("docker.io/library/redis:7.0",),
    "registry": ("docker.io/library/registry:3.1.2", "slipway.dev/htpasswd:2.4"),
    "web": (NGINX, REDIS),
}
"""Images that each needs, as its cluster pulled them."""
CHARTS = ("chart",)
"""Kubefiles that only helm can read."""
_KEY = re.compile(r"""(?:^|[\s{,])["']?image["']?:\s*["']?([^\s"'#,}\]]+)""", re.MULTILINE)


def measure(*, install: bool = True) -> list[dict[str, Any]]:
    """Percent of the needed images that are missed, and of what is found that is not needed.

    ``install``: compile helm where it is missing; without helm, charts are not among the inputs.
    """
    helm, kubectl = tools.helm() if install else tools.present_helm(), tools.present_kubectl()
    row = functools.partial(_row, charts=helm is not None)
    needed = ours = peer = ours_false = peer_false = 0
    missed: list[str] = []
    for name, context, images in inputs(charts=helm is not None):
        found, searched = read(context, helm, kubectl), search(context)
        needed += len(images)
        ours += len(images & found)
        peer += len(images & searched)
        ours_false += len(found - images)
        peer_false += len(searched - images)
        missed += [f"{name}: {image}" for image in sorted(images - found)]
    return [
        row("find: needed images missed", needed - ours, needed - peer, needed, missed=missed, recall=round(100 * ours / needed, 1)),
        row("find: false images", ours_false, peer_false, max(ours + ours_false, 1)),
    ]


def _row(name: str, ours: int, peer: int, whole: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(100 * ours / whole, 1),
        "peer": round(100 * peer / whole, 1),
        "peer_name": "recursive search for image: keys",
        "unit": "%",
        "counts": {"ours": ours, "peer": peer, "of": whole},
        **more,
    }


def inputs(*, charts: bool) -> Iterator[tuple[str, Path, set[str]]]:
    """Name, build context and needed images of each input; those that only helm can read where ``charts``."""
    for name, images in KUBEFILES.items():
        if charts or name not in CHARTS:
            yield name, PROJECT / "kubefiles" / name, set(images)
    for path in sorted(CASES.glob("*/expected.json")):
        expected = json.loads(path.read_text())
        if "needed" in expected and (charts or not expected.get("helm")):
            yield path.parent.name, path.parent, set(expected["needed"])


def read(context: Path, helm: Path | None, kubectl: Path | None) -> set[str]:
    """Images that slipway finds by reading, declared and possible. A refusal finds none."""
    path = context / "Kubefile"
    with contextlib.suppress(InputError):
        parsed = kubefile.parse(path.read_text(), str(path), context=context)
        plan = dry_run.plan(parsed, context, helm=helm, kubectl=kubectl)
        return {image["name"] for image in (*plan["images"], *plan["possibleImages"])}
    return set()


def search(context: Path) -> set[str]:
    """What ``grep -r image:`` gives, as far as it is the name of an image."""
    found: set[str] = set()
    for path in sorted(context.rglob("*")):
        if path.is_file() and path.name != "expected.json":
            for match in _KEY.finditer(path.read_text(errors="replace")):
                with contextlib.suppress(ValueError):
                    found.add(str(Reference.parse(match[1])))
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
