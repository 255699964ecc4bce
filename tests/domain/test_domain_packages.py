"""What is taken for a package, and what would be an option, a place, a file or a command of a package manager?"""

from __future__ import annotations

import pytest

from hostler.domain.errors import InvalidRequest
from hostler.domain.packages import PACKAGE_MANAGERS, PackageLists, PackagesRequest, changed_packages
from hostler.domain.values import parse

TAKEN = {
    "apt": ["ripgrep", "ripgrep=13.0.0-4+b2", "libstdc++6", "g++", "python3.11", "ffmpeg=7:5.1.6-0+deb12u1"],
    "cargo": ["ripgrep", "ripgrep@14.1.1", "cargo-edit@0.12.0-rc.1", "bat@^0.24"],
    "gem": ["rake", "rails:7.1.0", "bundler:~>2.5", "ruby-lsp", "net_http"],
    "go": [
        "golang.org/x/tools/cmd/goimports@latest",
        "github.com/BurntSushi/toml/cmd/tomlv@v1.4.0",
        "gopkg.in/yaml.v3",
    ],
    "npm": ["typescript", "express@4.18.0", "@types/node", "@types/node@^22.1.0", "left-pad@latest", "JSONStream@1.x"],
    "pip": ["pandas", "pandas==2.3.1", "requests[socks,security]>=2.31,<3", "torch~=2.1", "a", "zope.interface!=5.0.*"],
}

REFUSED = {
    "apt": [
        "vim-",
        "./x.deb",
        "/tmp/x.deb",
        "x.deb",
        "vim/bookworm",
        "vim:i386",
        "Vim",
        "lib*",
        "^vim$",
        "task^",
        "vim=1 -o Dpkg::Pre-Invoke=id",
    ],
    "cargo": ["ripgrep --git x", "https://example.com/x", "a@", "a@*; id", "a/b", "--path=/", "x@http://e"],
    "gem": ["./a.gem", "a.gem", "rake -s http://e", "rake:--x", "a/b", "rake:~> 1"],
    "go": [
        "fmt",
        "cmd/go",
        "./x",
        "example.com/../x@latest",
        "example.com/x@../y",
        "https://example.com/x",
        "-C=/",
        "example.com/x/...",
        "example.com/-x",
    ],
    "npm": [
        "user/repo",
        "github:user/repo",
        "git+ssh://git@e/x",
        "https://e/x.tgz",
        "file:../x",
        "../x",
        "a@npm:b@1",
        "a@file:x",
        "a@user/repo",
        "x.tgz",
        "a@x.tar.gz",
        "@a/b/c",
        "@/b",
        "~x",
        "a@~user",
        "a b",
    ],
    "pip": [
        "-rrequirements.txt",
        "--index-url=http://e",
        "--extra-index-url",
        "six --index-url http://e",
        "six;python_version>'3'",
        "six @ https://e/six.whl",
        "https://e/six.whl",
        "git+https://e/x",
        "./six",
        "/six",
        ".",
        "six.whl",
        "six==1.0.zip",
        "six==",
        "six== 1",
        "six[--x",
        "~/six",
        "file:x",
    ],
}

ANYWHERE = [
    "",
    " ",
    "-x",
    "--help",
    "a\nb",
    "a\tb",
    "a\x00b",
    "$(id)",
    "`id`",
    "a;b",
    "a|b",
    "a&b",
    "a>b c",
    "é",
    "a'b",
    '"a"',
]


@pytest.mark.parametrize("manager", PACKAGE_MANAGERS)
def test_names_and_versions_are_taken_as_they_are(manager: str) -> None:
    lists = changed_packages(PackageLists(), parse(PackagesRequest, {manager: TAKEN[manager]}))
    assert list(lists.of(manager)) == TAKEN[manager]


@pytest.mark.parametrize(
    ("manager", "entry"), [(manager, entry) for manager in PACKAGE_MANAGERS for entry in [*REFUSED[manager], *ANYWHERE]]
)
def test_whatever_a_manager_could_read_otherwise_is_refused(manager: str, entry: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{manager}: has .* which is not a {manager} package; write it like"):
        parse(PackagesRequest, {manager: [entry]})


def test_the_digest_is_that_of_what_is_wanted_not_of_its_order() -> None:
    one = PackageLists(pip=("a", "b"), apt=("c",))
    assert one.digest == PackageLists(apt=("c",), pip=("b", "a")).digest
    others = [PackageLists(pip=("a", "b")), PackageLists(npm=("a", "b"), apt=("c",)), PackageLists(pip=("a", "b", "c"))]
    assert one.digest not in {other.digest for other in others}
    assert PackageLists().empty
    assert not one.empty
