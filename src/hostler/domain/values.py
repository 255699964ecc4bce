"""How does untrusted JSON become a frozen value, and what is the caller told when it can't?

Every request model derives from `Value`: frozen, no unknown keys, no conversions (`"1"` is not 1). `parse` turns the
validator's findings into one `InvalidRequest` whose message names the place (`tools[0].configs[1].name`) and says what
to do there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from hostler.domain.errors import InvalidRequest

T = TypeVar("T")

MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 512


class Value(BaseModel):
    """A frozen value of the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def problem(message: str, *, code: str | None = None) -> PydanticCustomError:
    """What a validator raises: `message` is shown as it is, after the place; `code` becomes `details.error_code`."""
    return PydanticCustomError("hostler", "{message}", {"message": message, "code": code})


def _list_to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _no_nul(text: str) -> str:
    # PostgreSQL can't hold NUL in text, and no name, title or description needs one.
    if "\x00" in text:
        raise problem("contains a NUL character; remove it")
    return text


def _model_id(text: str) -> str:
    # D1: a model becomes an argument of a command line. It must never read as an option or as two words.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}", text):
        raise problem("is not a model id; use letters, digits and . _ : / @ - (at most 128), such as claude-opus-5-5")
    return text


def _identifier(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", text):
        raise problem("is not an identifier; pass an id exactly as this API returned it")
    return text


Items = Annotated[tuple[T, ...], BeforeValidator(_list_to_tuple)]
"""A JSON array, kept as a tuple."""
Text = Annotated[str, AfterValidator(_no_nul)]
ModelId = Annotated[str, AfterValidator(_model_id)]
Identifier = Annotated[str, AfterValidator(_identifier)]


def refuse_unless_empty(message: str) -> BeforeValidator:
    """For a field of the contract that this server can't honour: null and empty pass, anything else is refused."""

    def check(value: object) -> object:
        if value is None or value == [] or value == {} or value == ():
            return None
        raise problem(message)

    return BeforeValidator(check)


def _metadata(value: object) -> object:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise problem("must be an object of strings")
    check_metadata(value)
    return value


def check_metadata(bag: Mapping[str, object]) -> None:
    """Raises when `bag` is larger than the wire allows, or holds anything but strings."""
    if len(bag) > MAX_METADATA_PAIRS:
        raise problem(f"has {len(bag)} pairs; at most {MAX_METADATA_PAIRS} are kept, remove some")
    for key, value in bag.items():
        check_metadata_pair(key, value)


def check_metadata_pair(key: str, value: object) -> None:
    if not 1 <= len(key) <= MAX_METADATA_KEY:
        raise problem(f"has a key of {len(key)} characters; keys have 1 to {MAX_METADATA_KEY}")
    if not isinstance(value, str):
        raise problem(f"has a value for {key!r} that is not a string; send text")
    if len(value) > MAX_METADATA_VALUE:
        raise problem(f"has a value for {key!r} of {len(value)} characters; at most {MAX_METADATA_VALUE}")
    _no_nul(key)
    _no_nul(value)


def _metadata_patch(value: object) -> object:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise problem("must be an object; each value a string to set, or null to delete")
    for key, item in value.items():
        if item is not None:
            check_metadata_pair(key, item)
    return value


Metadata = Annotated[dict[str, str], BeforeValidator(_metadata)]
"""At most 16 pairs; keys of at most 64, values of at most 512 characters."""
MetadataPatch = Annotated[dict[str, str | None], BeforeValidator(_metadata_patch)]
"""A merge patch: null deletes the key."""


def merge_metadata(
    stored: Mapping[str, str], patch: Mapping[str, str | None], *, empty_deletes: bool = False
) -> dict[str, str]:
    """`stored` with `patch` applied. Raises InvalidRequest when the result is larger than the wire allows."""
    merged = dict(stored)
    for key, value in patch.items():
        if value is None or (empty_deletes and value == ""):
            merged.pop(key, None)
        else:
            merged[key] = value
    if len(merged) > MAX_METADATA_PAIRS:
        raise InvalidRequest(
            f"metadata: would have {len(merged)} pairs; at most {MAX_METADATA_PAIRS} are kept, delete some with null"
        )
    return merged


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def parse(kind: type[T], raw: object, *, at: str = "") -> T:
    """`raw` (as `json.loads` gives it) as a `kind`.

    `at` is the place of `raw` in the request, put before every place in the message. Raises InvalidRequest that names
    up to three findings.
    """
    key: Any = kind
    try:
        value: T = _adapter(key).validate_python(raw)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False), raw, at) from None
    return value


def _invalid(findings: Sequence[ErrorDetails], raw: object, at: str) -> InvalidRequest:
    parts: list[str] = []
    code: str | None = None
    for finding in findings:
        place = _place(finding, raw, at)
        text = _advice(finding)
        line = f"{place}: {text}" if place else f"the request body {text}"
        if line not in parts:
            parts.append(line)
        if code is None and finding["type"] == "hostler":
            code = finding.get("ctx", {}).get("code")
    more = len(parts) - 3
    return InvalidRequest("; ".join(parts[:3]) + (f"; and {more} more" if more > 0 else ""), code=code)


def _place(finding: ErrorDetails, raw: object, at: str) -> str:
    """The JSON path of a finding. The validator's own path also holds names of union members, which say nothing."""
    place, here = at, raw
    steps = finding["loc"]
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        if isinstance(step, int) and isinstance(here, (list, tuple)):
            place, here = f"{place}[{step}]", here[step] if step < len(here) else None
        elif isinstance(here, dict) and step == here.get("type") and not last:
            continue  # the name of a union's member, even where a field has the same name (`text`)
        elif isinstance(here, dict) and (step in here or (last and finding["type"] == "missing")):
            place, here = (f"{place}.{step}" if place else str(step)), here.get(step)
    return place


def _advice(finding: ErrorDetails) -> str:
    context = finding.get("ctx", {})
    match finding["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field of this request; remove it"
        case "union_tag_invalid":
            return f"has type {context.get('tag')!r}; use one of {context.get('expected_tags')}"
        case "union_tag_not_found":
            return "needs a `type`"
        case "literal_error":
            return f"must be {context.get('expected')}"
        case "string_too_short" | "too_short":
            return f"must have at least {context.get('min_length')} {_counted(finding['input'])}"
        case "string_too_long" | "too_long":
            return f"must have at most {context.get('max_length')} {_counted(finding['input'])}"
        case "greater_than_equal":
            return f"must be at least {context.get('ge')}"
        case "less_than_equal":
            return f"must be at most {context.get('le')}"
        case "greater_than":
            return f"must be greater than {context.get('gt')}"
        case "string_type":
            return "must be a string"
        case "int_type" | "int_parsing_size":
            return "must be an integer"
        case "float_type":
            return "must be a number"
        case "bool_type":
            return "must be true or false"
        case "tuple_type" | "list_type":
            return "must be an array"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must be an object"
        case _:
            return finding["msg"]


def _counted(value: object) -> str:
    return "characters" if isinstance(value, str) else "items"


def listed(names: Iterable[str]) -> str:
    """`a, b or c`, for messages."""
    items = list(names)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} or {items[-1]}"


def sentence(text: str) -> str:
    """The text with a capital letter at its start. The rest stays: ids and names are in it."""
    return text[:1].upper() + text[1:]
