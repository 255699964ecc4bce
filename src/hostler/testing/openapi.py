"""What does the served API look like to a machine? Writes the two documents that the server hands out.

`python -m hostler.testing.openapi` derives `src/hostler/api/openapi.json` from the contract's table and the types of
the installed `anthropic` client, for the endpoints that have a handler, and `own_openapi.json` from our own table and
`own_answers`. With `--check` it only compares, and fails when a file is stale. Run it in the project's directory.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin

import anthropic
from pydantic import BaseModel, TypeAdapter

from hostler.api.app import served_methods
from hostler.api.contract import CONTRACT, Endpoint
from hostler.api.own_contract import OWN_CONTRACT
from hostler.testing.own_answers import SHAPES, Bytes

FOLDER: Final = Path("src/hostler/api")
Schema = dict[str, Any]

_PLAIN: Final = {
    "400": "The request can't be served as it is.",
    "401": "The secret is missing or unknown.",
    "403": "This secret may not do this.",
    "404": "There is no such thing in this workspace.",
    "409": "Something else has happened meanwhile, or the name is taken.",
    "412": "The lease is not held any more.",
    "413": "The body is too large.",
    "429": "Too many requests; wait for as long as `retry-after` says.",
    "529": "The server can't at this moment: its database is away, or its disk is full.",
}


def documents() -> dict[str, Schema]:
    """Both, by the name of their file."""
    return {"openapi.json": document(), "own_openapi.json": own_document()}


def own_document() -> Schema:
    """The OpenAPI 3.1 document of our own endpoints."""
    components: dict[str, Schema] = {"Error": _error()}
    paths: dict[str, dict[str, Schema]] = {}
    for endpoint in OWN_CONTRACT:
        sent, answer, query = SHAPES[endpoint.name]
        operation: Schema = {
            "operationId": endpoint.route,
            "parameters": [
                *_path_parameters(endpoint.path),
                *({"name": name, "in": "query", "required": False, "schema": part} for name, part in query.items()),
            ],
        }
        if sent is not None:
            operation["requestBody"] = {
                "required": True,
                "content": _content(sent, components),
            }
        done = {"description": "Done.", "content": _content(answer, components)}
        operation["responses"] = {"200": done} | _refusals()
        paths.setdefault(endpoint.path, {})[endpoint.verb.lower()] = operation
    return _whole("Hostler: administration", "Everything below /hostler/v1.", paths, components)


def _content(body: type[BaseModel], components: dict[str, Schema]) -> Schema:
    if issubclass(body, Bytes):
        return {body.KIND: {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": _schema(body, components)}}


def document() -> Schema:
    """The OpenAPI 3.1 document of the contract's served endpoints."""
    components: dict[str, Schema] = {"Error": _error()}
    paths: dict[str, dict[str, Schema]] = {}
    served = served_methods()
    for endpoint in CONTRACT:
        if endpoint.method in served:
            paths.setdefault(endpoint.path, {})[endpoint.verb.lower()] = _operation(endpoint, components)
    title = "Hostler: the Claude Managed Agents API"
    words = "The endpoints that this server has. The others of the contract answer 501."
    return _whole(title, words, paths, components)


def _whole(title: str, words: str, paths: Mapping[str, Schema], components: Mapping[str, Schema]) -> Schema:
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version("hostler"), "description": words},
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


# --------------------------------------------------------------------------------------------------------- operations


def _operation(endpoint: Endpoint, components: dict[str, Schema]) -> Schema:
    method = _method(endpoint.method)
    source = inspect.getsource(method)
    operation: Schema = {"operationId": endpoint.method, "parameters": _path_parameters(endpoint.path)}
    operation["parameters"] += _query_parameters(method, _sent(source, "query"), components)
    if endpoint.verb == "POST":
        body = (
            _multipart(source) if "multipart/form-data" in source else _body(method, _sent(source, "body"), components)
        )
        if body is not None:
            operation["requestBody"] = body
    operation["responses"] = {"200": _answer(method, components)} | _refusals()
    return operation


def _refusals() -> Schema:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": words, "content": content} for status, words in _PLAIN.items()}


def _method(name: str) -> Callable[..., Any]:
    """The function of the client that sends the request."""
    here: Any = anthropic.Anthropic(api_key="none").beta
    for part in name.split("."):
        here = getattr(here, part)
    found: Callable[..., Any] = inspect.unwrap(here).__func__ if hasattr(here, "__func__") else inspect.unwrap(here)
    return found


def _path_parameters(path: str) -> list[Schema]:
    names = re.findall(r"\{(\w+)\}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _sent(source: str, where: str) -> dict[str, str]:
    """What the method puts into the query or body: the argument by the name on the wire."""
    found = re.search(where + r"=\{(.*?)\}", source, re.DOTALL)
    return dict(re.findall(r'"([^"]+)": (\w+)', found[1])) if found else {}


def _argument(method: Callable[..., Any], name: str) -> tuple[Any, bool]:
    """The type of an argument as it is sent, and whether it must be."""
    hint = typing.get_type_hints(method, include_extras=True)[name]
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kept = tuple(part for part in parts if part is not anthropic.Omit)
    return Union[kept], len(kept) == len(parts)  # noqa: UP007 - built at run time


def _query_parameters(
    method: Callable[..., Any], sent: Mapping[str, str], components: dict[str, Schema]
) -> list[Schema]:
    out = []
    for name, argument in sent.items():
        hint, required = _argument(method, argument)
        schema = _schema(hint, components)
        array = schema.get("type") == "array"
        out.append(
            {"name": f"{name}[]" if array else name, "in": "query", "required": required, "schema": schema}
            | ({"style": "form", "explode": True} if array else {})
        )
    return out


def _body(method: Callable[..., Any], sent: Mapping[str, str], components: dict[str, Schema]) -> Schema | None:
    if not sent:
        return None
    typed = {name: _argument(method, argument) for name, argument in sent.items()}
    schema = {
        "type": "object",
        "properties": {name: _schema(hint, components) for name, (hint, _) in typed.items()},
        "required": [name for name, (_, required) in typed.items() if required],
        "additionalProperties": False,
    }
    return {"required": bool(schema["required"]), "content": {"application/json": {"schema": schema}}}


def _multipart(source: str) -> Schema:
    names = re.findall(r'"(\w+)": ', source.split("deepcopy_with_paths(", 1)[-1].split("}", 1)[0])
    fields: Schema = {}
    for name in names:
        binary = {"type": "string", "contentMediaType": "application/octet-stream"}
        match name:
            case "files":
                fields["files[]"] = {"type": "array", "items": binary}
            case "file":
                fields["file"] = binary
            case "expires_in_seconds":
                fields[name] = {"type": "integer"}
            case _:
                fields[name] = {"type": "string"}
    return {"required": True, "content": {"multipart/form-data": {"schema": {"type": "object", "properties": fields}}}}


def _answer(method: Callable[..., Any], components: dict[str, Schema]) -> Schema:
    hint = typing.get_type_hints(method)["return"]
    origin, name = get_origin(hint), getattr(get_origin(hint) or hint, "__name__", "").partition("[")[0]
    if name == "BinaryAPIResponse":
        kind = "application/zip" if method.__qualname__.startswith("Versions.") else "*/*"
        return {"description": "The bytes.", "content": {kind: {"schema": {}}}}
    if name == "Stream":
        return {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    if name.startswith("Sync"):
        return {"description": "One page.", "content": {"application/json": {"schema": _page(name, hint, components)}}}
    if origin in (Union, types.UnionType):
        hint = Union[tuple(part for part in get_args(hint))]  # noqa: UP007 - built at run time
    return {"description": "Done.", "content": {"application/json": {"schema": _schema(hint, components)}}}


def _page(name: str, hint: Any, components: dict[str, Schema]) -> Schema:
    row = _schema(hint.__pydantic_generic_metadata__["args"][0], components)
    text: Schema = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    properties: Schema = {"data": {"type": "array", "items": row}}
    match name:
        case "SyncPage":
            properties |= {"has_more": {"type": "boolean"}, "first_id": text, "last_id": text}
        case "SyncBidirectionalPageCursor":
            properties |= {"next_page": text, "prev_page": text}
        case _:
            properties |= {"next_page": text}
    return {"type": "object", "properties": properties, "required": list(properties)}


# ------------------------------------------------------------------------------------------------------------ schemas


def _schema(hint: Any, components: dict[str, Schema]) -> Schema:
    """The JSON Schema of a type of the client; named parts go to `components`."""
    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    schema = adapter.json_schema(ref_template="#/components/schemas/{model}")
    for name, part in schema.pop("$defs", {}).items():
        components[name] = _plain(part)
    found: Schema = _plain(schema)
    title = schema.get("title")
    if "properties" in found and title and title == getattr(hint, "__name__", None):
        components[title] = found
        return {"$ref": f"#/components/schemas/{title}"}
    return found


def _plain(schema: Any) -> Any:
    """Without the words of the client's documentation, which are not ours."""
    if isinstance(schema, dict):
        return {
            key: ({name: _plain(part) for name, part in value.items()} if key == "properties" else _plain(value))
            for key, value in schema.items()
            if key not in ("title", "description", "examples")
        }
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    return schema


def _error() -> Schema:
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "properties": {"type": text, "message": text, "details": {"type": "object"}},
                "required": ["type", "message"],
            },
            "request_id": text,
        },
        "required": ["type", "error", "request_id"],
    }


def main(arguments: list[str]) -> int:
    stale = 0
    for name, made in documents().items():
        file, text = FOLDER / name, json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        if arguments != ["--check"]:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            print(f"{file} is stale: run scripts/generate-docs", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
