"""Names, rules and addresses: what the pure part of the egress road says yes to."""

from __future__ import annotations

from posixpath import normpath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.egress.addresses import is_public, is_this_host
from hostler.egress.paths import below, is_prefix
from hostler.egress.policy import BadTarget, Policy, Target, parse_absolute, parse_authority
from hostler.engine.egress_port import EgressRules, HostRule


def reason(rules: EgressRules, authority: str) -> str:
    return Policy(rules).judge(parse_authority(authority)).reason


@pytest.mark.parametrize("authority", ["github.com:443", "localhost:80", "1.1.1.1:443", "[::1]:443", "a:443"])
def test_an_empty_list_allows_nothing(authority: str) -> None:
    assert not Policy(EgressRules("listed")).judge(parse_authority(authority)).allowed


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("github.com:443", "allowed_host"),
        ("GitHub.COM:443", "allowed_host"),
        ("github.com.:443", "allowed_host"),
        ("api.example.com:443", "allowed_host"),
        ("a.b.example.com:80", "allowed_host"),
        ("bücher.example:443", "allowed_host"),
        ("xn--bcher-kva.example:443", "allowed_host"),
        ("XN--BCHER-KVA.example:443", "allowed_host"),
        ("1.1.1.1:443", "allowed_host"),
        ("[2606:4700::1111]:443", "allowed_host"),
        ("[2606:4700:0:0::1111]:443", "allowed_host"),
        ("evil-github.com:443", "host_not_allowed"),
        ("github.com.evil.tld:443", "host_not_allowed"),
        ("www.github.com:443", "host_not_allowed"),
        ("example.com:443", "host_not_allowed"),
        ("evilexample.com:443", "host_not_allowed"),
        ("example.com.evil.tld:443", "host_not_allowed"),
        ("bucher.example:443", "host_not_allowed"),
        ("github.com:22", "port_blocked"),
        ("github.com:8443", "port_blocked"),
        ("1.1.1.1:53", "port_blocked"),
        ("1.0.0.1:443", "address_literal"),
        ("16843009:443", "address_literal"),
        ("0x01010101:443", "address_literal"),
        ("0x1.0x1.0x1.0x1:443", "address_literal"),
        ("01.01.01.01:443", "address_literal"),
        ("1.1.257:443", "address_literal"),
        ("1.1:443", "address_literal"),
        ("1.1.1.1.1:443", "address_literal"),
        ("[::ffff:1.1.1.1]:443", "address_literal"),
        ("127.1:80", "address_literal"),
        ("0:80", "address_literal"),
    ],
)
def test_only_listed_names_and_addresses_are_allowed(authority: str, expected: str) -> None:
    hosts = ("github.com", "*.example.com", "Bücher.example", "1.1.1.1", "2606:4700::1111")
    if not authority.isascii():
        authority = authority.encode("idna").decode()
    assert reason(EgressRules("listed", hosts), authority) == expected


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("anything.example:443", "public_host"),
        ("anything.example:25", "port_blocked"),
        ("8.8.8.8:443", "address_literal"),
        ("2130706433:80", "address_literal"),
        ("[::1]:80", "address_literal"),
    ],
)
def test_public_means_every_name_on_the_open_ports_and_no_bare_address(authority: str, expected: str) -> None:
    assert reason(EgressRules("public"), authority) == expected


@pytest.mark.parametrize(
    "authority",
    [
        "",
        ":443",
        "github.com",
        "github.com:",
        "github.com:0",
        "github.com:65536",
        "github.com:+443",
        "github.com: 443",
        "github.com:443:443",
        "github.com:４４３",
        "user@github.com:443",
        "user:pass@github.com:443",
        "github.com\0.evil.tld:443",
        "github.com%00.evil.tld:443",
        "github.com%2eevil.tld:443",
        "github.com\r\nX: y:443",
        "github.com\t:443",
        "github.com/:443",
        "github.com\\evil.tld:443",
        "github.com#:443",
        "github.com,evil.tld:443",
        "*.github.com:443",
        "github..com:443",
        ".github.com:443",
        "github.com..:443",
        "-github.com:443",
        "::1:443",
        "[::1:443",
        "[::1]443",
        "[::1%lo]:443",
        "[::1%25lo]:443",
        "[github.com]:443",
        "a" * 64 + ".com:443",
        "a." * 127 + "com:443",
    ],
)
def test_malformed_targets_are_not_guessed_at(authority: str) -> None:
    with pytest.raises(BadTarget):
        parse_authority(authority)


@pytest.mark.parametrize(
    ("url", "target", "path"),
    [
        ("http://a.example/x?y=1", Target("a.example", 80), "/x?y=1"),
        ("HTTP://A.example", Target("a.example", 80), "/"),
        ("http://a.example?x", Target("a.example", 80), "/?x"),
        ("http://a.example:8080/", Target("a.example", 8080), "/"),
        ("http://[2001:db8::1]/", Target("2001:db8::1", 80, True), "/"),
    ],
)
def test_absolute_targets_are_split(url: str, target: Target, path: str) -> None:
    assert parse_absolute(url) == (target, path)


@pytest.mark.parametrize(
    "url", ["/x", "*", "https://a.example/", "ftp://a/", "http:///x", "http://a@b/", "http://a/#b", ""]
)
def test_other_forms_of_a_plain_target_are_refused(url: str) -> None:
    with pytest.raises(BadTarget):
        parse_absolute(url)


@pytest.mark.parametrize(
    "host", ["*", "*.", "", "http://a.example", "a.example:443", "a.*.example", "a b", "0x7f.1", "*.1.2.3.4"]
)
def test_malformed_rules_are_refused_by_name(host: str) -> None:
    with pytest.raises(ValueError, match="allowed host"):
        Policy(EgressRules("listed", (host,)))


@given(st.text(alphabet="abc.-*@:[]/%0x1\0 é", max_size=30))
def test_whatever_is_parsed_is_never_allowed_by_an_unrelated_rule(text: str) -> None:
    try:
        target = parse_authority(text, default_port=443)
    except BadTarget:
        return
    verdict = Policy(EgressRules("listed", ("allowed.tld", "*.below.tld"))).judge(target)
    assert not verdict.allowed


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8"),
        *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.170", "192.0.2.1"),
        *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
        *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"),
        *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:2::1"),
        *("2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1"),
        *("4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
        *("", "localhost", "1.1", "0x7f000001", "2606:4700::1111%1"),
    ],
)
def test_addresses_that_are_not_of_the_public_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700::1111", "64:ff9b::8.8.8.8"],
)
def test_addresses_of_the_public_internet(address: str) -> None:
    assert is_public(address)


def test_this_host_is_known_by_its_addresses() -> None:
    assert is_this_host("127.0.0.1")
    assert is_this_host("127.3.2.1") or not is_public("127.3.2.1")
    assert not is_this_host("203.0.113.7")
    assert not is_this_host("not an address")


# -------------------------------------------------------------------------------------------------- rules that say more


def rules(*some: HostRule, hosts: tuple[str, ...] = ()) -> Policy:
    return Policy(EgressRules("listed", hosts, rules=some))


@pytest.mark.parametrize(
    ("rule", "authority", "expected", "inside", "opened"),
    [
        (HostRule("a.example"), "a.example:443", "allowed_rule", False, False),
        (HostRule("*.a.example"), "b.a.example:80", "allowed_rule", False, False),
        (HostRule("a.example"), "a.example:8443", "port_blocked", False, False),
        (HostRule("a.example", ports=frozenset({8443})), "a.example:8443", "allowed_rule", False, True),
        (HostRule("a.example", ports=frozenset({8443})), "a.example:443", "port_blocked", False, False),
        (HostRule("a.example", ports=frozenset({25})), "a.example:25", "port_blocked", False, False),
        (HostRule("a.example", ports=frozenset({443})), "a.example:80", "port_blocked", False, False),
        (HostRule("a.example", methods=frozenset({"GET"})), "a.example:443", "allowed_rule", True, False),
        (HostRule("a.example", paths=("/v1",)), "a.example:80", "allowed_rule", True, False),
        (HostRule("a.example", paths=("/v1",)), "b.example:443", "host_not_allowed", False, False),
        (HostRule("a.example", frozenset({8443}), paths=("/v1",)), "a.example:8443", "allowed_rule", True, False),
    ],
)
def test_a_rule_is_for_its_host_its_ports_and_what_it_says(
    rule: HostRule, authority: str, expected: str, inside: bool, opened: bool
) -> None:
    verdict = rules(rule).judge(parse_authority(authority))
    assert (verdict.reason, verdict.inside, verdict.opened) == (expected, inside, opened)


def test_a_blocked_port_is_closed_even_where_it_would_be_open_to_everybody() -> None:
    policy = Policy(EgressRules("public", ("a.example",)), blocked_ports=frozenset({80}))
    assert policy.judge(parse_authority("a.example:443")).allowed
    assert policy.judge(parse_authority("a.example:80")).reason == "port_blocked"


def test_a_wider_rule_for_the_same_host_leaves_the_inside_alone() -> None:
    narrow = HostRule("a.example", methods=frozenset({"GET"}))
    for policy in (rules(narrow, hosts=("a.example",)), rules(narrow, HostRule("*.example"))):
        verdict = policy.judge(parse_authority("a.example:443"))
        assert verdict.allowed
        assert not verdict.inside


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/files", "allowed_rule"),
        ("GET", "/v1/files/", "allowed_rule"),
        ("GET", "/v1/files?x=/../admin", "allowed_rule"),
        ("GET", "/v2/x", "path_not_allowed"),
        ("POST", "/v2/x", "allowed_rule"),
        ("POST", "/v1/files", "path_not_allowed"),
        ("PUT", "/v1/files", "method_not_allowed"),
        ("get", "/v1/files", "method_not_allowed"),
    ],
)
def test_method_and_path_have_to_fit_the_same_rule(method: str, path: str, expected: str) -> None:
    policy = rules(
        HostRule("a.example", methods=frozenset({"GET"}), paths=("/v1/files",)),
        HostRule("a.example", methods=frozenset({"POST"}), paths=("/v2",)),
    )
    verdict = policy.judge_request(parse_authority("a.example:443"), method, path)
    assert verdict.reason == expected
    assert verdict.allowed == (expected == "allowed_rule")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/files/x",
        "/v1/files/a%20b",
        "/v1/files/group%2Fproject",
        "/v1/files/@scope%2fname",
        "/v1/files//x",
        "/v1/files/a/../b",
        "/v1/files/%C3%A9",
        "/v1/files/x;y=z",
        "/v1/files/...",
        "/v1/files?/../",
    ],
)
def test_paths_that_lie_below_a_prefix_in_every_reading(path: str) -> None:
    assert below(path, ("/v1/files",))


@pytest.mark.parametrize(
    "path",
    [
        *("", "*", "/", "/v1", "/v1/filesystem", "/v1/file", "/V1/files", "/v2/v1/files", "v1/files"),
        *("/v1/files/..", "/v1/files/../admin", "/v1/files/x/../../admin", "/v1/files/./../admin"),
        *("/v1/files/%2e%2e/admin", "/v1/files/.%2E/admin", "/v1/files/%2e%2e%2fadmin", "/v1/files/..%2fadmin"),
        *("/v1/files/%252e%252e/admin", "/v1/files/%25252e%25252e%25252fadmin", "/v1/files%2f..%2f..%2fadmin"),
        *("/v1/files/..\\..\\admin", "/v1/files/%5c..%5c..%5cadmin", "/v1/files\\..\\..\\admin"),
        *("/v1/files/..;/admin", "/v1/files/..;x=y/admin", "/v1/files;/../../admin", "/v1/files/%2e%2e;/admin"),
        *("/v1/files//../../admin", "/v1//files", "//v1/files", "/v1/%66iles", "/v1%2ffiles", "/v1/./files"),
        *("/v1/files/%00/../admin", "/v1/files/x%00", "/v1/files/%c0%ae%c0%ae/admin", "/v1/files/%c0%afx"),
        *("/v1/files/%EF%BC%8E%EF%BC%8E/admin", "/v1/files/%E2%80%A5/admin", "/v1/files/ x", "/v1/files/\x7f"),
        *("/v1/files/%2525252525252525x", "/v1/files/é"),
    ],
)
def test_no_way_of_writing_a_path_leads_around_a_prefix(path: str) -> None:
    assert not below(path, ("/v1/files",))


@pytest.mark.parametrize("path", ["v1", "/v1/../x", "/v1//x", "/v1/%41", "/v1?x", "/v1 x", "", "/v1/./x", "/é"])
def test_a_prefix_that_can_be_read_in_several_ways_is_refused(path: str) -> None:
    assert not is_prefix(path)
    with pytest.raises(ValueError, match=r"a\.example"):
        rules(HostRule("a.example", paths=(path,)))


@given(st.lists(st.sampled_from(["..", "%2e", "%2f", "/", ".", "a", "\\", ";", "%5c", "%25", "2e", "v1"]), max_size=12))
def test_a_path_that_is_let_through_stays_below_however_often_it_is_decoded(parts: list[str]) -> None:
    path = "/v1/" + "".join(parts)
    if not below(path, ("/v1",)):
        return
    for _ in range(4):
        assert normpath("/" + path.replace("\\", "/").lstrip("/")).startswith("/v1")
        path = unquote(path)


def test_package_managers_are_the_registries_and_nothing_else() -> None:
    policy = Policy(EgressRules("listed", package_managers=True), package_hosts=("registry.example",))
    assert policy.judge(Target("registry.example", 443)).reason == "package_host"
    assert not policy.judge(Target("registry.example", 8080)).allowed
    assert not policy.judge(Target("evil-registry.example", 443)).allowed
    assert (
        not Policy(EgressRules("listed"), package_hosts=("registry.example",))
        .judge(Target("registry.example", 443))
        .allowed
    )


@pytest.mark.parametrize(
    ("authority", "method", "path", "hint"),
    [
        ("b.example:443", "GET", "/", 'add "b.example" to the allowed hosts'),
        ("a.example:443", "PUT", "/v1", 'add PUT to the methods of a rule for "a.example"'),
        ("a.example:443", "GET", "/v2", 'add "/v2" or a beginning of it to the paths of a rule for "a.example"'),
        ("a.example:99", "GET", "/", "These ports are open: 80, 443; others by a rule"),
        ("a.example:25", "GET", "/", "egress.blocked_ports"),
    ],
)
def test_a_denial_says_what_would_allow_it(authority: str, method: str, path: str, hint: str) -> None:
    policy = rules(HostRule("a.example", methods=frozenset({"GET"}), paths=("/v1",)))
    verdict = policy.judge_request(parse_authority(authority), method, path)
    assert not verdict.allowed
    assert hint in verdict.hint
