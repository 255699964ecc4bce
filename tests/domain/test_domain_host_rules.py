"""Which host rules are taken (A1–A3)? Only what can be read in one way."""

from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from hostler.domain.networking import host_rule


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a-b.c3.example", "a-b.c3.example"),
    ],
)
def test_plain_names_are_kept_in_lower_case(rule: str, kept: str) -> None:
    assert host_rule(rule) == kept


@pytest.mark.parametrize(
    "rule",
    [
        "", "*", "*.", "*.*", "**.example.com", "a.*.example.com", "ex*mple.com", "*example.com", "*.com",
        "https://example.com", "example.com/path", "example.com:443", "user@example.com", "example.com?x",
        "example.com#x",
        "example.com.", ".example.com", "example..com", "-a.example.com", "a-.example.com", "a_b.example.com",
        "127.0.0.1", "10.0.0.1", "[::1]", "::1", "::ffff:10.0.0.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433",
        "0x7f000001",
        "1.2.3.4.5", "a.0x7f", "localhost", "a.localhost", "printer.local", "db.internal", "router.lan",
        "169.254.169.254", "metadata.google.internal", "com", "büche.example", "example.com\n", "exam ple.com",
        "example.com\x00", "example.com\r\nHost: x", "a" * 64 + ".example", ".".join(["a" * 60] * 5), "*.1.2.3.4",
    ],
)  # fmt: skip
def test_everything_ambiguous_or_private_is_refused(rule: str) -> None:
    with pytest.raises(PydanticCustomError):
        host_rule(rule)
