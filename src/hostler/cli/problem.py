"""How does a command fail in a way that helps? With a message, the next command to try, and an exit code.

Exit codes: 0 it worked; 1 it was right to try, and it failed; 2 the command or the configuration is wrong as it stands.
"""

from __future__ import annotations

import os

FAILED = 1
WRONG = 2


def spelled(command: str) -> str:
    """`hostler …` as it has to be typed here: a checkout's wrapper script says in HOSTLER_COMMAND how it was called."""
    program = os.environ.get("HOSTLER_COMMAND")
    if program and command.startswith("hostler "):
        return program + command.removeprefix("hostler")
    return command


class Problem(Exception):
    """An expected failure. `next_command` is what the user should type next."""

    def __init__(self, message: str, *, next_command: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.next_command = spelled(next_command)
        self.code = code


class Refused(Problem):
    """A server refused what a command asked. Whoever knows which command that was names its help as what to read."""

    def by(self, command: str) -> None:
        """`command`: such as `hostler budget create`."""
        self.next_command = spelled(f"{command} --help")
