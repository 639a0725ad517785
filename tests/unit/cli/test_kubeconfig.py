"""The kubeconfig of a cluster: command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kubeconfig", "mine", "--merge"], "nothing is known of a cluster mine"),
    ],
)
def test_kubeconfig_merge_unknown_cluster_is_refused_before_any_change(
    refused: Callable[[Sequence[str], str], None], words: list[str], message: str
) -> None:
    refused(words, message)
