"""Kubefiles of sealos's public catalogue, by shape: each means what its author meant, or is refused with what to write instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import kubefile
from harness.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shape:
    text: str
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Of the context, beside charts/web/Chart.yaml."""
    warnings: int = 0
    refused: str = ""
    """Message of its one fault."""
    hint: str | None = None


UPGRADE = "helm upgrade --install web charts/web"
SHAPES = {
    "a chart": Shape(f'FROM scratch\nCOPY registry registry\nCOPY charts charts\nCMD ["{UPGRADE}"]', (UPGRADE,), warnings=1),
    "lower case": Shape(f'from scratch\ncopy charts charts\ncmd ["{UPGRADE}"]', (UPGRADE,)),
    "values of ENV": Shape(
        'FROM scratch\nENV NAME web\nENV NAMESPACE="web ns" OPTS=""\nCOPY charts ./charts\n'
        'CMD ["helm upgrade -i $(NAME) charts/web -n $(NAMESPACE) --create-namespace $(OPTS)"]',
        ("helm upgrade -i ${NAME} charts/web -n ${NAMESPACE} --create-namespace ${OPTS}",),
    ),
    "values in braces": Shape('FROM scratch\nENV NAME=web\nCMD ["helm upgrade -i ${NAME} x"]', ("helm upgrade -i ${NAME} x",)),
    "values of ARG": Shape('FROM scratch\nARG VERSION=1\nCMD ["helm install web web-$(VERSION).tgz"]', ("helm install web web-1.tgz",)),
    "a value in single quotes": Shape(
        "FROM scratch\nENV A=1\nCMD [\"helm install x y --set 'a=$(A)'\"]", ("""helm install x y --set 'a='"${A}"''""",)
    ),
    "a quoted command": Shape(f'FROM scratch\nCMD "{UPGRADE}"', (UPGRADE,)),
    "a plain command": Shape(f"FROM scratch\nCMD {UPGRADE}", (UPGRADE,)),
    "several commands": Shape(
        'FROM scratch\nCMD ["kubectl apply -f manifests/a.yaml","bash start.sh"]', ("kubectl apply -f manifests/a.yaml", "bash start.sh")
    ),
    "the words of one command": Shape(
        'FROM scratch\nCMD ["kubectl","apply","-f","manifests/a.yaml"]', ("kubectl apply -f manifests/a.yaml",), warnings=1
    ),
    "a script": Shape(
        'FROM scratch\nCOPY init.sh .\nCMD ["bash init.sh $(REGION)"]', ("bash init.sh ${REGION}",), ("init.sh",), warnings=1
    ),
    "on a base": Shape(
        f'FROM labring/kubernetes:v1.27.0\nCOPY charts charts\nCOPY images images\nCMD ["{UPGRADE}"]', (UPGRADE,), ("images/shim/web",)
    ),
    "everything": Shape(f'FROM scratch\nCOPY . .\nCMD ["{UPGRADE}"]', (UPGRADE,)),
    "maintainer and labels": Shape(
        f'FROM scratch\nMAINTAINER labring\nLABEL init="init.sh" sealos.io.type="application"\nCMD ["{UPGRADE}"]', (UPGRADE,)
    ),
    "continued lines": Shape('FROM scratch\nENV A=1 \\\n    B=2\nCMD ["kubectl get pods && \\\n  ls"]', ("kubectl get pods &&   ls",)),
    "nothing to launch": Shape("FROM scratch\nCOPY registry registry", warnings=1),
    "binaries": Shape('FROM scratch\nCOPY opt ./opt\nCMD ["cp -f opt/tool /usr/bin/"]', ("cp -f opt/tool /usr/bin/",), ("opt/tool",)),
    "binaries that a script downloads": Shape(
        "FROM scratch\nCOPY opt ./opt", (), ("init.sh",),
        refused="opt: no such file or folder in ", hint="init.sh of the context may make it: catalogues of sealos run it before they build",
    ),
    "a tool's Dockerfile": Shape(
        'FROM scratch\nUSER 65532:65532\nCMD ["ls"]',
        refused="USER is a Dockerfile's instruction, not a Kubefile's", hint="everything in a rootfs belongs to root",
    ),
    "an entry point": Shape(
        'FROM scratch\nENTRYPOINT ["/manager"]',
        refused="ENTRYPOINT is a Dockerfile's instruction, not a Kubefile's", hint="an image is started with LAUNCH, CMDS or CMD",
    ),
    "stages": Shape(
        "FROM golang AS build\nFROM scratch",
        refused="a second FROM", hint="an image has one base; take files of others with COPY --from=IMAGE",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_parse_sealos_shape_gives_expected_commands_or_fault(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    for file in ("charts/web/Chart.yaml", *shape.files):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("name: web\n")
    if shape.refused:
        with pytest.raises(InputError) as caught:
            kubefile.parse(shape.text, "Kubefile", context=tmp_path)
        (fault,) = caught.value.faults
        assert fault.message.startswith(shape.refused)
        assert fault.hint == shape.hint
        return
    parsed = kubefile.parse(shape.text, "Kubefile", context=tmp_path)
    assert parsed.commands == shape.commands
    assert len(parsed.warnings) == shape.warnings, parsed.warnings
