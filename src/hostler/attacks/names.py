"""A1 to A4: can a session reach a host that nobody allowed, by the way in which it names it?

Every name but the scripted ones resolves to the canary's allowed address, so a name that slips past the rules arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostler.attacks.canary import ALLOWED_ADDRESS, PRIVATE_ADDRESS, Answer, Met
from hostler.attacks.cases import Case, OnProxy, Severity
from hostler.attacks.grounds import LISTED, PUBLIC, ProxyGround, connect, first_line, get
from hostler.engine.egress_port import EgressRules, HostRule

Scripts = Mapping[str, Sequence[Sequence[str]]]


def _case(id_: str, title: str, attack: OnProxy, severity: Severity = "critical") -> Case:
    return Case(id_, title, severity, "roads", proxy=attack)


def _connects(host: str, rules: EgressRules = LISTED, names: Scripts | None = None) -> OnProxy:
    async def attack(ground: ProxyGround) -> Sequence[str]:
        return await ground.refused(connect(host, ground.canaries.port), rules, names)

    return attack


def _gets(url: str, *headers: str, rules: EgressRules = LISTED, names: Scripts | None = None) -> OnProxy:
    """`PORT` in the URL and the headers is the canary's."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        port = str(ground.canaries.port)
        lines = [header.replace("PORT", port) for header in headers]
        return await ground.refused(get(url.replace("PORT", port), *lines), rules, names)

    return attack


def _sends(text: str, rules: EgressRules = LISTED, names: Scripts | None = None) -> OnProxy:
    async def attack(ground: ProxyGround) -> Sequence[str]:
        data = text.replace("PORT", str(ground.canaries.port)).encode("utf-8", "surrogateescape")
        return await ground.refused(data, rules, names)

    return attack


# ---------------------------------------------------------------------------------------------------- A1: empty lists


def _meaningless(entry: str | HostRule) -> OnProxy:
    """An entry that somebody could take for "everything": no road opens with it, or it allows nothing."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        rules = (
            EgressRules("listed", rules=(entry,)) if isinstance(entry, HostRule) else EgressRules("listed", (entry,))
        )
        try:
            return await ground.refused(connect("evil.tld", ground.canaries.port), rules)
        except ValueError:
            return ()

    return attack


async def _second_session(ground: ProxyGround) -> Sequence[str]:
    """A session with a list beside one without: the second must not have the first one's rules."""
    async with ground.road() as rich:
        poor = ground.place / "poor.sock"
        proxy = rich.proxy
        road = await proxy.open("sesn_poor", poor, EgressRules("listed"))
        rich.socket = poor
        answer = await rich.say(connect("allowed.example", ground.canaries.port))
        found = list(ground.judge(answer, rich.decisions))
        if not any(decision.session_id == "sesn_poor" for decision in rich.decisions.made):
            found.append("the denial is not recorded for the session that was denied")
        await road.close()
        return found


NOTHING = EgressRules("listed")

_A1 = (
    _case("A1.1", "CONNECT with an empty list", _connects("allowed.example", NOTHING)),
    _case("A1.2", "plain HTTP with an empty list", _gets("http://allowed.example:PORT/", rules=NOTHING)),
    _case("A1.3", "an address with an empty list", _connects(ALLOWED_ADDRESS, NOTHING)),
    _case(
        "A1.4",
        "an empty list together with allowed MCP servers",
        _connects("allowed.example", EgressRules("listed", mcp_servers=True)),
    ),
    _case(
        "A1.5",
        "an empty list together with package managers, for a host that is none",
        _connects("evil.tld", EgressRules("listed", package_managers=True)),
    ),
    _case("A1.6", "an entry that is the empty text", _meaningless("")),
    _case("A1.7", "an entry that is a lone star", _meaningless("*")),
    _case("A1.8", "an entry that is a star and a dot", _meaningless("*.")),
    _case("A1.9", "a rule whose host is the empty text", _meaningless(HostRule(""))),
    _case("A1.10", "a rule whose host is a lone star", _meaningless(HostRule("*"))),
    _case("A1.11", "an empty list beside a neighbour's full one", _second_session),
)

# ------------------------------------------------------------------------------------------------------- A2: lookalikes

_LOOKALIKES = (
    ("a prefix glued to an allowed name", "evil-allowed.example"),
    ("an allowed name as prefix of another", "allowed.example.evil.tld"),
    ("the last letter missing", "allowed.exampl"),
    ("one letter more", "allowed.examplee"),
    ("a name that ends like a wildcard, without its dot", "evilbelow.example"),
    ("the name above a wildcard", "below.example"),
    ("a wildcard's name as prefix", "a.below.example.evil.tld"),
    ("a name below an exact one", "www.allowed.example"),
    ("user-info before the host", "allowed.example@evil.tld"),
    ("user-info with a password that is an allowed name", "user:allowed.example@evil.tld"),
    ("NUL before an allowed ending", "evil.tld\0.below.example"),
    ("NUL, percent-encoded", "evil.tld%00.below.example"),
    ("a dot, percent-encoded", "evil.tld%2ebelow.example"),
    ("a slash, percent-encoded", "evil.tld%2f.below.example"),
    ("a line feed in the name", "evil.tld\n.below.example"),
    ("a carriage return in the name", "evil.tld\r.below.example"),
    ("a tab in the name", "evil.tld\t.below.example"),
    ("a hash before an allowed ending", "evil.tld#.below.example"),
    ("a question mark before an allowed ending", "evil.tld?.below.example"),
    ("a backslash before an allowed ending", "evil.tld\\.below.example"),
    ("a slash before an allowed ending", "evil.tld/.below.example"),
    ("a semicolon before an allowed ending", "evil.tld;.below.example"),
    ("a list of two hosts", "evil.tld,allowed.example"),
    ("an ideographic full stop instead of a dot", "evil.tld。below.example"),
    ("full-width letters", "ａllowed.example"),
    ("a Cyrillic letter, as bytes", "аllowed.example"),
    ("a Cyrillic letter, in punycode", "xn--llowed-2nf.example"),
    ("punycode that decodes to ASCII", "xn--allowed-.example"),
    ("a wildcard itself", "*.below.example"),
    ("an empty label before a wildcard's base", ".below.example"),
    ("an empty label inside", "a..below.example"),
    ("two trailing dots", "allowed.example.."),
    ("a label of 64 letters", "a" * 64 + ".below.example"),
    ("a name of 254 letters", "a." * 121 + "below.example"),
    ("an invalid UTF-8 byte", "evil\udcff.below.example"),
    ("a soft hyphen", "allo\u00adwed.example.evil.tld"),
)

_URLS = (
    ("an allowed name as user-info of a URL", "http://allowed.example@evil.tld:PORT/"),
    ("an allowed name and port as user-info of a URL", "http://allowed.example:80@evil.tld:PORT/"),
    ("an allowed name behind a backslash", "http://evil.tld:PORT\\@allowed.example/"),
    ("an allowed name behind a hash", "http://evil.tld:PORT#@allowed.example/"),
    ("three slashes", "http:///evil.tld:PORT/"),
    ("no slashes", "http:evil.tld:PORT/"),
    ("no scheme", "//evil.tld:PORT/"),
    ("a tab inside the scheme", "ht\ttp://evil.tld:PORT/"),
)


async def _one_spelling(ground: ProxyGround) -> Sequence[str]:
    """Capitals and a trailing dot are the same host: it is let through, and recorded under its one name."""
    found = []
    for spelled in ("ALLOWED.Example", "allowed.example.", "A.BELOW.EXAMPLE."):
        async with ground.road() as road:
            answer = await road.say(connect(spelled, ground.canaries.port))
            if b" 200 " not in answer[:20]:
                found.append(f"{spelled} is the same name, and was answered {first_line(answer)!r}")
            wrong = {made.host for made in road.decisions.made} - {"allowed.example", "a.below.example"}
            found += [f"{spelled} is recorded as {name!r}" for name in sorted(wrong)]
    return found


async def _denied_whatever_case(ground: ProxyGround) -> Sequence[str]:
    found: list[str] = []
    for spelled in ("EVIL.TLD", "Evil.Tld.", "eViL-aLLoWeD.eXaMpLe"):
        found += await ground.refused(connect(spelled, ground.canaries.port))
    return found


_A2 = (
    *(_case(f"A2.{n}", f"CONNECT to {t}", _connects(h)) for n, (t, h) in enumerate(_LOOKALIKES, 1)),
    *(
        _case(f"A2.{n}", f"GET with {t}", _sends(f"GET {u} HTTP/1.1\r\nHost: x\r\n\r\n"))
        for n, (t, u) in enumerate(_URLS, 41)
    ),
    _case(
        "A2.50",
        "a denied host with an allowed Host header",
        _gets("http://evil.tld:PORT/", "Host: allowed.example:PORT"),
    ),
    _case(
        "A2.51",
        "CONNECT to a denied host with an allowed Host header",
        _sends("CONNECT evil.tld:PORT HTTP/1.1\r\nHost: allowed.example:PORT\r\n\r\n"),
    ),
    _case("A2.52", "capitals and dots in denied names", _denied_whatever_case),
    _case("A2.53", "capitals and dots to be recorded as another host", _one_spelling, "high"),
    _case(
        "A2.54",
        "the name of the session's MCP servers, in a session without any",
        _sends("CONNECT mcp.hostler.internal:PORT HTTP/1.1\r\nHost: x\r\n\r\n"),
    ),
)

# -------------------------------------------------------------------------------------------------- A3: bare addresses

_ADDRESSES = (
    ("a private IPv4 address", PRIVATE_ADDRESS),
    ("one decimal number", "2130706434"),
    ("one hexadecimal number", "0x7f000002"),
    ("one hexadecimal number in capitals", "0X7F000002"),
    ("one octal number", "017700000002"),
    ("octal parts", "0177.0.0.2"),
    ("hexadecimal parts", "0x7f.0x0.0x0.0x2"),
    ("mixed parts", "0x7f.0.0.02"),
    ("a short form", "127.2"),
    ("three parts", "127.0.2"),
    ("leading zeros", "127.000.000.002"),
    ("a trailing dot", "127.0.0.2."),
    ("an overflowing number", "4297675778"),
    ("full-width digits", "１２７.０.０.２"),
    ("circled digits", "①②⑦.⓪.⓪.②"),
    ("percent-encoded digits", "%31%32%37.0.0.2"),
    ("IPv6 loopback", "[::1]"),
    ("IPv6 loopback in full", "[0:0:0:0:0:0:0:1]"),
    ("a mapped IPv4 address", "[::ffff:127.0.0.2]"),
    ("a mapped IPv4 address in hexadecimal", "[::ffff:7f00:2]"),
    ("a compatible IPv4 address", "[::127.0.0.2]"),
    ("a translated IPv4 address (NAT64)", "[64:ff9b::7f00:2]"),
    ("a wrapped IPv4 address (6to4)", "[2002:7f00:2::1]"),
    ("a link-local IPv6 address with a zone", "[fe80::1%lo]"),
    ("a zone in percent-encoding", "[fe80::1%25lo]"),
    ("a unique local IPv6 address", "[fd00:ec2::254]"),
    ("the unspecified IPv4 address", "0.0.0.0"),
    ("zero", "0"),
    ("the unspecified IPv6 address", "[::]"),
    ("the metadata service of clouds", "169.254.169.254"),
    ("the metadata service as a number", "2852039166"),
    ("the metadata service, mapped", "[::ffff:a9fe:a9fe]"),
    ("a host of the local network", "10.0.0.1"),
    ("the broadcast address", "255.255.255.255"),
    ("a multicast address", "224.0.0.1"),
)

_LITERALS_LISTED = EgressRules("listed", (PRIVATE_ADDRESS,))

_A3 = (
    *(_case(f"A3.{n}", f"CONNECT to {t}", _connects(h, PUBLIC)) for n, (t, h) in enumerate(_ADDRESSES, 1)),
    _case("A3.41", "GET from an address", _gets(f"http://{PRIVATE_ADDRESS}:PORT/", rules=PUBLIC)),
    _case("A3.42", "GET from a decimal number", _gets("http://2130706434:PORT/", rules=PUBLIC)),
    _case("A3.43", "GET from a mapped IPv4 address", _gets("http://[::ffff:127.0.0.2]:PORT/", rules=PUBLIC)),
    _case(
        "A3.44",
        "GET from the metadata service, with its header",
        _gets("http://169.254.169.254/latest/meta-data/", "Host: 169.254.169.254", "Metadata: true", rules=PUBLIC),
    ),
    _case(
        "A3.45",
        "a private address that somebody put into the list",
        _connects(PRIVATE_ADDRESS, _LITERALS_LISTED),
    ),
    _case("A3.46", "an allowed address in another notation", _connects("0x7f.0.0.2", _LITERALS_LISTED)),
)

# ------------------------------------------------------------------------------------------------- A4: lying resolvers

_PRIVATE = (
    ("loopback", PRIVATE_ADDRESS),
    ("the local network", "10.0.0.1"),
    ("the metadata service", "169.254.169.254"),
    ("carrier-grade NAT, where a cloud has its metadata", "100.100.100.200"),
    ("another cloud's host agent", "168.63.129.16"),
    ("the unspecified address", "0.0.0.0"),
    ("IPv6 loopback", "::1"),
    ("a mapped loopback address", "::ffff:127.0.0.2"),
    ("a unique local IPv6 address", "fd00:ec2::254"),
    ("a translated loopback address", "64:ff9b::7f00:2"),
    ("link-local IPv6", "fe80::1"),
)


async def _rebinds(ground: ProxyGround) -> Sequence[str]:
    """The first answer is judged; whoever asked again for the connection would get the second."""
    async with ground.road(names={"allowed.example": [[ALLOWED_ADDRESS], [PRIVATE_ADDRESS]]}) as road:
        answer = await road.say(get(f"http://allowed.example:{ground.canaries.port}/"))
        found = []
        if len(road.names.asked) != 1:
            found.append(f"the name was resolved {len(road.names.asked)} times for one connection")
        if any(met.address == PRIVATE_ADDRESS for met in ground.canaries.met):
            found.append("the connection went to the second, private answer")
        elif b"canary" not in answer:
            found.append(f"the judged address was not used: {first_line(answer)!r}")
        return found


async def _rebinds_later(ground: ProxyGround) -> Sequence[str]:
    """A name that was public once and private afterwards is judged again."""
    async with ground.road(names={"allowed.example": [[ALLOWED_ADDRESS], [PRIVATE_ADDRESS]]}) as road:
        await road.say(get(f"http://allowed.example:{ground.canaries.port}/"))
        ground.canaries.met.clear()
        road.decisions.made.clear()
        answer = await road.say(connect("allowed.example", ground.canaries.port))
        return ground.judge(answer, road.decisions)


def _redirects(to: str) -> Answer:
    async def answer(met: Met, reader: object, writer: object) -> None:
        head = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())  # type: ignore[attr-defined]

    return answer


async def _redirect(ground: ProxyGround) -> Sequence[str]:
    async with ground.road(names={"allowed.example": [[ALLOWED_ADDRESS]]}) as road:
        port = ground.canaries.port
        ground.canaries.answer = _redirects(f"http://{PRIVATE_ADDRESS}:{port}/latest")
        await road.say(get(f"http://allowed.example:{port}/"))
        found = []
        if any(met.address == PRIVATE_ADDRESS for met in ground.canaries.met):
            found.append("the proxy followed a redirect to a private address")
        ground.canaries.forget()
        road.decisions.made.clear()
        answer = await road.say(get(f"http://{PRIVATE_ADDRESS}:{port}/latest"))
        return [*found, *ground.judge(answer, road.decisions)]


async def _redirect_by_name(ground: ProxyGround) -> Sequence[str]:
    names = {"allowed.example": [[ALLOWED_ADDRESS]], "a.below.example": [[PRIVATE_ADDRESS]]}
    async with ground.road(names=names) as road:
        port = ground.canaries.port
        ground.canaries.answer = _redirects(f"http://a.below.example:{port}/")
        await road.say(get(f"http://allowed.example:{port}/"))
        found = []
        if any(met.address == PRIVATE_ADDRESS for met in ground.canaries.met):
            found.append("the proxy followed a redirect to a private address")
        ground.canaries.forget()
        road.decisions.made.clear()
        answer = await road.say(get(f"http://a.below.example:{port}/"))
        return [*found, *ground.judge(answer, road.decisions)]


def _resolves(*addresses: str) -> OnProxy:
    return _connects("allowed.example", names={"allowed.example": [list(addresses)]})


_A4 = (
    *(_case(f"A4.{n}", f"an allowed name that leads to {t}", _resolves(a)) for n, (t, a) in enumerate(_PRIVATE, 1)),
    _case("A4.21", "a private address among public ones", _resolves(ALLOWED_ADDRESS, PRIVATE_ADDRESS)),
    _case("A4.22", "a private address before public ones", _resolves(PRIVATE_ADDRESS, ALLOWED_ADDRESS)),
    _case("A4.23", "a name that changes between check and connection", _rebinds),
    _case("A4.24", "a name that is private at the second request", _rebinds_later),
    _case("A4.25", "a redirect to a private address", _redirect),
    _case("A4.26", "a redirect to an allowed name with a private address", _redirect_by_name),
    _case(
        "A4.27",
        "a name below a wildcard that leads to a private address, by plain HTTP",
        _gets("http://a.below.example:PORT/", names={"a.below.example": [[PRIVATE_ADDRESS]]}),
    ),
    _case(
        "A4.28",
        "any public name, with open networking, that leads to a private address",
        _connects("anything.example", PUBLIC, {"anything.example": [[PRIVATE_ADDRESS]]}),
    ),
)

CASES = (*_A1, *_A2, *_A3, *_A4)
