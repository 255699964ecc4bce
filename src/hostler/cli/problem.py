"""How does a command fail in a way that helps? With a message, the next command to try, and an exit code.

Exit codes: 0 it worked; 1 it was right to try, and it failed; 2 the command or the configuration is wrong as it stands.
"""

from __future__ import annotations

FAILED = 1
WRONG = 2


class Problem(Exception):
    """An expected failure. `next_command` is what the user should type next."""

    def __init__(self, message: str, *, next_command: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.next_command = next_command
        self.code = code
