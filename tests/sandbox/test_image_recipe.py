"""What is the base image made of, and from where?"""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.domain.packages import PackageLists
from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox.image_recipe import Recipe, host_recipe
from hostler.sandbox.images import BaseImages
from hostler.sandbox.layer_steps import steps

KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


def etc(folder: Path, **files: str) -> Path:
    (folder / "apt/sources.list.d").mkdir(parents=True)
    (folder / "os-release").write_text('PRETTY_NAME="Debian 12"\nVERSION_CODENAME=bookworm\n')
    for name, text in files.items():
        (folder / "apt" / name.replace("__", "/").replace("_", ".")).write_text(text)
    return folder


def test_only_the_distributions_own_sources_are_used(tmp_path: Path) -> None:
    recipe = host_recipe(
        etc(
            tmp_path,
            sources_list="deb http://deb.debian.org/debian bookworm main # main\n# deb http://x y z\n"
            "deb-src http://deb.debian.org/debian bookworm main\n"
            "deb [arch=amd64 signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.example bookworm main\n"
            "deb https://vendor.example stable main\n",
            sources_list_d__a_sources=f"# comment\nTypes: deb deb-src\nURIs: http://deb.debian.org/debian\n"
            f"Suites: bookworm-updates trixie\nComponents: main\nSigned-By: {KEY}\n\n"
            "Types: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\nEnabled: no\n",
            sources_list_d__b_sources="Types: deb\nURIs: https://vendor.example\nSuites: bookworm\nComponents: main\n"
            "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n",
            sources_list_d__c_disabled="deb http://deb.debian.org/debian bookworm contrib\n",
        )
    )
    assert recipe.suite == "bookworm"
    assert recipe.sources.split("\n\n") == [
        "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main",
        "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm-updates\nComponents: main\n"
        f"Signed-By: {KEY}\n",
    ]


def test_a_host_of_another_kind_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text('PRETTY_NAME="Fedora 41"\n')
    with pytest.raises(SandboxUnavailable, match=r"Fedora 41 has no apt sources.*images\.suite"):
        host_recipe(tmp_path)


def test_the_digest_changes_with_everything_that_changes_the_image() -> None:
    recipes = [
        Recipe("bookworm", "a"),
        Recipe("trixie", "a"),
        Recipe("bookworm", "b"),
        Recipe("bookworm", "a", ("bash",)),
    ]
    assert len({recipe.digest for recipe in recipes}) == 4
    assert Recipe("bookworm", "a", ("a", "b")).digest == Recipe("bookworm", "a", ("b", "a")).digest


def test_there_is_no_image_before_one_is_built(tmp_path: Path) -> None:
    images = BaseImages(tmp_path)
    assert (images.current(), images.list(), images.remove("ab")) == (None, [], False)


def test_every_entry_is_one_word_behind_the_options(tmp_path: Path) -> None:
    lists = PackageLists(
        apt=("jq=1.6",),
        pip=("six==1.16",),
        npm=("a@1", "b"),
        cargo=("rg@1",),
        gem=("rake:13",),
        go=("e.org/a", "e.org/b@v1"),
    )
    made = steps(lists, tmp_path, "bookworm")
    assert [name for name, _ in made] == ["apt", "apt", "pip", "npm", "cargo", "gem", "go", "go"]
    commands = [list(command) for _, command in made]
    tools = ["cargo-web", "gcc", "libc6-dev", "ruby", "ruby-dev", "build-essential", "golang-go"]
    assert commands[1][commands[1].index("--") + 1 :] == ["jq=1.6", *tools]
    assert commands[2][-2:] == ["--", "six==1.16"]
    assert commands[3][-3:] == ["--", "a@1", "b"]
    assert commands[4][-2:] == ["--", "rg@1"]
    assert commands[5] == ["gem", "install", "--no-document", "rake:13"]
    assert commands[6:] == [["go", "install", "--", "e.org/a@latest"], ["go", "install", "--", "e.org/b@v1"]]


def test_tools_that_the_image_has_are_not_installed_again(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/gem").touch()
    assert [name for name, _ in steps(PackageLists(gem=("rake",)), tmp_path, "trixie")] == ["gem"]
    pinned = steps(PackageLists(go=("e.org/a",), apt=("golang-go=2:1.19",)), tmp_path, "trixie")
    assert list(pinned[1][1])[-1] == "golang-go=2:1.19"
