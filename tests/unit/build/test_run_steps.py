"""Names that steps resolve, and hints for steps that fail."""

from __future__ import annotations

import pytest

from harness.build import run_steps
from harness.errors import InputError


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("files.example.com:10.0.0.1", "files.example.com:10.0.0.1"),
        ("files=10.0.0.1", "files:10.0.0.1"),
        ("files:host-gateway", "files:host-gateway"),
        ("files:2001:DB8:0::1", "files:2001:db8::1"),
        ("files=[::1]", "files:::1"),
        ("my_mirror.example.com:127.0.0.1", "my_mirror.example.com:127.0.0.1"),
    ],
)
def test_added_hosts_are_normalized_for_engine_without_duplicates(text: str, entry: str) -> None:
    assert run_steps.added_hosts([text, text]) == (entry,)


def test_added_hosts_keep_addresses_of_both_ip_families() -> None:
    assert run_steps.added_hosts(["a:10.0.0.1", "a:fd00::1"]) == ("a:10.0.0.1", "a:fd00::1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("files.example.com", "is not NAME:ADDRESS"),
        ("", "is not NAME:ADDRESS"),
        (":10.0.0.1", "'' is not the name of a host"),
        ("a b:10.0.0.1", "'a b' is not the name of a host"),
        ("-a:10.0.0.1", "'-a' is not the name of a host"),
        ("a..b:10.0.0.1", "'a..b' is not the name of a host"),
        ("a\n10.0.0.9 b:10.0.0.1", "is not the name of a host"),
        (f"{'a' * 64}:10.0.0.1", "is not the name of a host"),
        (f"{'a.' * 127}b:10.0.0.1", "is not the name of a host"),
        ("a:10.0.0.300", "'10.0.0.300' is not an address"),
        ("a:", "'' is not an address"),
        ("a:b", "'b' is not an address"),
        ("a:10.0.0.1/24", "'10.0.0.1/24' is not an address"),
        ("a:0.0.0.0", "'0.0.0.0' is not an address"),
        ("a:224.0.0.1", "'224.0.0.1' is not an address"),
        ("a:fe80::1%eth0", "'fe80::1%eth0' is not an address"),
        ("a:10.0.0.1\n10.0.0.2 b", "is not an address"),
    ],
)
def test_added_hosts_invalid_entry_raises_input_error_with_hint(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        run_steps.added_hosts([text])
    (fault,) = refused.value.faults
    assert fault.where == f"--add-host {text}"
    assert message in fault.message
    assert fault.hint


def test_added_hosts_faults_are_all_reported() -> None:
    with pytest.raises(InputError) as refused:
        run_steps.added_hosts(["a", "b:10.0.0.1", "-c:10.0.0.300"])
    assert len(refused.value.faults) == 3


def test_network_hint_of_unrelated_failure_is_none() -> None:
    assert run_steps.network_hint("make: *** [all] Error 2", run_steps.BRIDGE) is None


def test_network_hint_of_failed_connection_names_option() -> None:
    refused = "curl: (7) Failed to connect to 127.0.0.1 port 80"
    assert "--network host" in str(run_steps.network_hint(refused, run_steps.BRIDGE))
    assert "--add-host NAME:ADDRESS" in str(run_steps.network_hint("curl: (6) Could not resolve host: files", run_steps.BRIDGE))
    assert run_steps.network_hint(refused, run_steps.HOST) is None


def test_is_foreign_program_recognizes_exec_format_error() -> None:
    assert run_steps.is_foreign_program("exec /bin/sh: Exec format error")
    assert not run_steps.is_foreign_program("exec /bin/sh: no such file")
