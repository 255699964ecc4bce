"""Which tools does a worker of a self-hosted environment run, and what does the model read about them?

The names and inputs are the contract's: the official worker implements exactly these. `web_fetch` and `web_search` are
not among them, they stay with this server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hostler.engine.runs import CustomTool


def _tool(name: str, description: str, required: tuple[str, ...], **properties: Mapping[str, Any]) -> CustomTool:
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return CustomTool(name, description, schema)


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_PATH = "Path of the file, absolute or relative to the working directory."

HOSTED_TOOLS: Mapping[str, CustomTool] = {
    tool.name: tool
    for tool in (
        _tool(
            "bash",
            "Run a command in a persistent bash shell: working directory, variables and functions stay from call to "
            "call. Prefer read, write, edit, glob and grep for work on files. When the shell hangs or is broken, call "
            "with restart=true and no command.",
            (),
            command=_text("The command to run."),
            restart={"type": "boolean", "description": "Start a new shell. Leave the command out."},
            timeout_ms={
                "type": "integer",
                "description": "Stop the command after this many milliseconds. At most 120000, the default.",
            },
        ),
        _tool(
            "read",
            "Read a file. Text is returned as it is; images and PDF documents can be read too.",
            ("file_path",),
            file_path=_text(_PATH),
            view_range={
                "type": "array",
                "items": {"type": "integer"},
                "minItems": 2,
                "maxItems": 2,
                "description": "First and last line to return, counted from 1. A last line of -1 is the end of file.",
            },
        ),
        _tool(
            "write",
            "Write a whole file. Missing folders are made; a file that exists is replaced.",
            ("file_path", "content"),
            file_path=_text(_PATH),
            content=_text("The complete new content."),
        ),
        _tool(
            "edit",
            "Replace text in a file. old_string must match exactly, white space included, and occur only once unless "
            "replace_all is set.",
            ("file_path", "old_string", "new_string"),
            file_path=_text(_PATH),
            old_string=_text("The text to replace."),
            new_string=_text("What to put in its place."),
            replace_all={"type": "boolean", "description": "Replace every occurrence."},
        ),
        _tool(
            "glob",
            "Find files by name pattern, such as **/*.py. The newest come first.",
            ("pattern",),
            pattern=_text("The pattern; ** matches any number of folders."),
            path=_text("Folder to search in; by default the working directory."),
        ),
        _tool(
            "grep",
            "Search the contents of files for a regular expression.",
            ("pattern",),
            pattern=_text("The regular expression."),
            path=_text("File or folder to search in; by default the working directory."),
        ),
    )
}
