"""A process that has imported what commands need, and runs each command in a fork of itself.

To import takes a second and more of every command that talks to a server; all else is the command's own: arguments,
environment, streams, exit code. Requests come through the socket whose descriptor is the argument.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback

import anthropic  # noqa: F401 - most commands want it
import httpx2  # noqa: F401

from hostler import compose  # noqa: F401 - those that open the store want it
from hostler.cli.main import main


def run(arguments: list[str], environment: dict[str, str], streams: list[int]) -> int:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hostler", *arguments]
    try:
        main()
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def serve(control: socket.socket) -> None:
    while True:
        told, streams, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not told:
            return
        request = json.loads(told)
        pid = os.fork()
        if pid == 0:
            control.close()
            code = 1
            try:
                code = run(request["arguments"], request["environment"], streams)
            finally:
                os._exit(code)
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(pid, 0)
        control.send(str(os.waitstatus_to_exitcode(status)).encode())


serve(socket.socket(fileno=int(sys.argv[1])))
