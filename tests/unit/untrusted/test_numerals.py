"""Numbers that come from outside."""

from __future__ import annotations

from harness import untrusted


def test_number_and_decimal_accept_ascii_digits_only() -> None:
    assert [untrusted.number(text) for text in ("0", "12", "007", str((1 << 63) - 1))] == [0, 12, 7, (1 << 63) - 1]
    assert [untrusted.number(text, base=16) for text in ("ff", "0A")] == [255, 10]
    for odd in ("", "²", "٣", "-1", "+1", " 1", "1_0", "0x1", "1.0", str(1 << 63), "9" * 5000, None, 5, "f"):
        assert untrusted.number(odd) is None
    assert untrusted.number("8", base=8) is None
    assert untrusted.number("65536", maximum=65535) is None
    assert [untrusted.decimal(text) for text in ("0", "12.5", "2.5e-05", "1.")] == [0, 12.5, 2.5e-05, 1]
    for odd in ("", "nan", "inf", "1e999", "-1", ".5", "²", "1_0", None, "1" * 5000):
        assert untrusted.decimal(odd) is None
