"""``build --network host``: the warning comes before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import build, log
from harness.build import run_steps
from harness.build.options import BuildOptions
from harness.errors import BuildError
from harness.oci.store import Store


@pytest.mark.parametrize("network", run_steps.NETWORKS)
def test_build_with_network_host_warns(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: Store) -> None:
        raise BuildError("far enough")

    monkeypatch.setattr(Store, "shared_lease", stop)
    (tmp_path / "Kubefile").write_text("FROM scratch\nCMD kubectl apply -f a\n")
    log.setup()
    with pytest.raises(BuildError, match="far enough"):
        build.build(BuildOptions(tmp_path, "x", network=network), Store(tmp_path / "store"))
    said = capsys.readouterr().err
    assert ("warning: --network host: RUN and Dockerfiles share the network of this machine" in said) is (network == run_steps.HOST)
