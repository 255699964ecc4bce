"""What stands in a sandbox in the place of a secret?

A text without a meaning: a fixed beginning, by which it is recognised, and 160 random bits. It is drawn once for each
session and credential and kept, so that a process that is started again, and one whose secret was replaced, find it
unchanged. Its characters go through headers, URLs, forms, JSON and shells as they are.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import Final

PREFIX: Final = "hostler_placeholder_"
PLACEHOLDER: Final = re.compile(PREFIX.encode() + rb"[a-z2-7]{32}")
LENGTH: Final = len(PREFIX) + 32


def new_placeholder() -> str:
    return PREFIX + base64.b32encode(secrets.token_bytes(20)).decode().lower()
