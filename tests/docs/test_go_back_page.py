"""What the page about going back tells people to write: it runs, and prints what it says."""

from __future__ import annotations

import json

from docpages import DOCS, blocks
from test_how_tos import Running
from test_how_tos import server as server

from hostler.domain.environments import CreateEnvironment
from hostler.domain.values import parse

PAGE = "go-back-and-fork.md"


async def test_page_goes_back_and_forks(server: Running) -> None:
    await server.does(PAGE)


def test_configuration_in_the_page_is_valid() -> None:
    (text,) = [block.body for block in blocks((DOCS / "how-to" / PAGE).read_text("utf-8")) if block.name == "json"]
    parse(CreateEnvironment, {"name": "x", "config": json.loads(text)})
