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
def test_added_host_is_an_entry_as_the_engine_takes_it(text: str, entry: str) -> None:
    assert run_steps.added_hosts([text, text]) == (entry,)


def test_name_with_addresses_of_both_families_has_both() -> None:
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
def test_added_host_that_is_wrong_is_a_fault(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        run_steps.added_hosts([text])
    (fault,) = refused.value.faults
    assert fault.where == f"--add-host {text}"
    assert message in fault.message
    assert fault.hint


def test_every_fault_of_added_hosts_is_named() -> None:
    with pytest.raises(InputError) as refused:
        run_steps.added_hosts(["a", "b:10.0.0.1", "-c:10.0.0.300"])
    assert len(refused.value.faults) == 3


def test_a_step_that_fails_by_itself_has_no_hint_about_networks() -> None:
    assert run_steps.network_hint("make: *** [all] Error 2", run_steps.BRIDGE) is None


def test_network_hint_of_a_step_that_reaches_nothing_names_the_option() -> None:
    refused = "curl: (7) Failed to connect to 127.0.0.1 port 80"
    assert "--network host" in str(run_steps.network_hint(refused, run_steps.BRIDGE))
    assert "--add-host NAME:ADDRESS" in str(run_steps.network_hint("curl: (6) Could not resolve host: files", run_steps.BRIDGE))
    assert run_steps.network_hint(refused, run_steps.HOST) is None


def test_program_for_another_processor_is_recognized() -> None:
    assert run_steps.is_foreign_program("exec /bin/sh: Exec format error")
    assert not run_steps.is_foreign_program("exec /bin/sh: no such file")
