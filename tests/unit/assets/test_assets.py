"""Scripts for nodes: what is sent of them, and that their headers say what they take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import assets

SCRIPTS = sorted(assets.NODE.glob("*.sh"))
KNOWN = {"HOME", "KUBECONFIG", "LC_ALL", "NF", "PATH", "SUDO_USER"} | {"SLIPWAY_NOTES", "SLIPWAY_PATH", "BASH_VERSION"}
"""Variables of a machine, of a launch command, and of awk."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assets, "NODE", tmp_path)
    assets._read.cache_clear()
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_kept() -> object:
    yield
    assets._read.cache_clear()


def test_script_arguments_precede_body_and_are_quoted(folder: Path) -> None:
    (folder / "greet.sh").write_text(
        '#!/bin/sh\n# Greet.\n#\n#   NAME   whom\n#   TIMES  how often\n#   "$@"   more\n\n# Loud.\necho "$NAME"\n'
    )
    text = assets.script("greet", "a b", "$c", name="it's $(me)", times=2)
    assert text == "# greet.sh\nNAME='it'\"'\"'s $(me)'\nTIMES=2\nset -- 'a b' '$c'\n# Loud.\necho \"$NAME\"\n"


def test_script_included_script_gets_its_arguments(folder: Path) -> None:
    (folder / "common.sh").write_text("#!/bin/sh\n# Functions.\n#   BIN  programs\n\nrunning() { $BIN/ctr; }\n")
    (folder / "stop.sh").write_text("#!/bin/sh\n# Stop.\n\n. ./common.sh\nrunning\n")
    assert assets.script("stop", bin="/bin") == "# stop.sh\nBIN=/bin\nrunning() { $BIN/ctr; }\nrunning\n"


@pytest.mark.parametrize("arguments", [{}, {"bin": "/bin", "other": "x"}, {"Bin": "/bin", "more": 1}])
def test_script_unknown_or_missing_arguments_are_refused(folder: Path, arguments: dict[str, str | int]) -> None:
    (folder / "stop.sh").write_text("#!/bin/sh\n# Stop.\n#   BIN  programs\n\nrunning\n")
    with pytest.raises(ValueError, match=r"node/stop\.sh: arguments do not fit: "):
        assets.script("stop", **arguments)
    with pytest.raises(ValueError, match="arguments do not fit"):
        assets.script("stop", "word", bin="/bin")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_header_names_all_used_variables(path: Path) -> None:
    first, *lines = path.read_text().splitlines()
    assert first == "#!/bin/sh"
    assert re.match(r"# \w", lines[0])
    text, wanted = assets._read(path.stem)
    code = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    used = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]*)\b", code)) - KNOWN
    assert used == wanted - {'"$@"'}
