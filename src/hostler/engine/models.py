"""Which models are known here? A static catalogue of Claude models, in the shape of the wire.

An agent may name a model outside the catalogue: the upstream decides whether it exists. What isn't known is null, never
guessed; an unknown release date is the epoch, as the contract allows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.agents import EffortLevel
from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.values import Items, ModelId, Text, Value, parse, problem

Lifecycle = Literal["active", "deprecated", "retired"]
Line = Literal["haiku", "sonnet", "opus", "fable", "mythos"]
"""The lines that the contract knows."""
UNKNOWN_DATE: Final = "1970-01-01T00:00:00Z"
DEFAULT_EFFORT: Final[EffortLevel] = "high"


def _moment(text: str) -> str:
    try:
        parse_rfc3339(text)
    except ValueError:
        raise problem("must be a moment such as 2026-10-07T00:00:00Z") from None
    return text


Moment = Annotated[str, AfterValidator(_moment)]
Count = Annotated[int, Field(ge=1, le=2**53)]


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue."""

    id: str
    display_name: str
    line: Line | None
    created_at: str = UNKNOWN_DATE
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    default_effort: EffortLevel = DEFAULT_EFFORT
    lifecycle: Lifecycle = "active"
    aliases: tuple[str, ...] = ()
    deprecated_at: str | None = None
    retires_at: str | None = None

    def wire(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "model",
            "display_name": self.display_name,
            "created_at": self.created_at,
            "lifecycle": self.lifecycle,
            "deprecated_at": self.deprecated_at,
            "retires_at": self.retires_at,
            "line": self.line,
            "max_input_tokens": self.max_input_tokens,
            "max_tokens": self.max_tokens,
            "capabilities": None,
            "allowed_fallback_models": None,
        }


_M, _K = 1_000_000, 1_000

CATALOGUE: Final[tuple[Model, ...]] = (
    Model("claude-haiku-5-5", "Claude Haiku 5.5", "haiku", "2026-10-07T00:00:00Z", _M, 128 * _K, "medium"),
    Model("claude-fable-5-2", "Claude Fable 5.2", "fable"),
    Model("claude-sonnet-5-5", "Claude Sonnet 5.5", "sonnet", UNKNOWN_DATE, _M, 128 * _K),
    Model("claude-opus-5-5", "Claude Opus 5.5", "opus", UNKNOWN_DATE, _M, 128 * _K, "medium"),
    Model("claude-fable-5-1", "Claude Fable 5.1", "fable", UNKNOWN_DATE, _M, 128 * _K),
    Model("claude-opus-5", "Claude Opus 5", "opus", "2026-07-24T00:00:00Z", _M, 128 * _K),
    Model("claude-sonnet-5", "Claude Sonnet 5", "sonnet", "2026-06-30T00:00:00Z", _M, 128 * _K),
    Model("claude-fable-5", "Claude Fable 5", "fable"),
    Model("claude-opus-4-8", "Claude Opus 4.8", "opus"),
    Model("claude-opus-4-7", "Claude Opus 4.7", "opus"),
    Model("claude-sonnet-4-6", "Claude Sonnet 4.6", "sonnet"),
    Model("claude-opus-4-6", "Claude Opus 4.6", "opus"),
    Model("claude-opus-4-5-20251101", "Claude Opus 4.5", "opus", max_input_tokens=200 * _K, max_tokens=64 * _K,
          aliases=("claude-opus-4-5",)),
    Model("claude-haiku-4-5-20251001", "Claude Haiku 4.5", "haiku", max_input_tokens=200 * _K, max_tokens=64 * _K,
          aliases=("claude-haiku-4-5",)),
    Model("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", "sonnet", max_input_tokens=200 * _K, max_tokens=64 * _K,
          aliases=("claude-sonnet-4-5",)),
)  # fmt: skip


class _Entry(Value):
    id: ModelId
    display_name: Text
    line: Line | None = None
    created_at: Moment = UNKNOWN_DATE
    max_input_tokens: Count | None = None
    max_tokens: Count | None = None
    default_effort: EffortLevel = DEFAULT_EFFORT
    lifecycle: Lifecycle = "active"
    aliases: Items[ModelId] = ()
    deprecated_at: Moment | None = None
    retires_at: Moment | None = None


class _File(Value):
    models: Annotated[Items[_Entry], Field(min_length=1, max_length=1000)]


def read_catalogue(file: Path) -> tuple[Model, ...]:
    """The catalogue of a JSON file, `{"models": [{"id", "display_name", …}, …]}`, newest first as it stands.

    The fields are those of `Model`. Raises InvalidRequest that names what is wrong.
    """
    try:
        raw = json.loads(file.read_bytes())
        entries = parse(_File, raw).models
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"models.file {file}: {error}") from error
    except InvalidRequest as error:
        raise InvalidRequest(f"models.file {file}: {error.message}") from error
    names = [name for entry in entries for name in (entry.id, *entry.aliases)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"models.file {file}: {twice} is there twice, as an id or an alias; remove one")
    return tuple(Model(**entry.model_dump()) for entry in entries)


def spellings(name: str) -> frozenset[str]:
    """What requests may call the model of an agent. The harness takes off what stands in brackets (`[1m]`) and puts a
    model in the place of a bare line (`sonnet`), which one depends on its version."""
    plain = name.partition("[")[0]
    return frozenset((name, plain, *(model.id for model in CATALOGUE if model.line == plain)))


@dataclass(frozen=True, slots=True)
class ModelPage:
    rows: Sequence[Model]
    has_more: bool


class Models:
    """The catalogue, newest first.

    routed  what the operator's rules may choose, whatever an agent says.
    """

    def __init__(self, catalogue: Sequence[Model] = CATALOGUE, routed: frozenset[str] = frozenset()) -> None:
        self.routed = routed
        self._models = tuple(catalogue)
        self._by_name = {name: model for model in catalogue for name in (model.id, *model.aliases)}

    def retrieve(self, name: str) -> dict[str, Any]:
        """The model with this id or alias. Raises NotFound."""
        model = self._by_name.get(name)
        if model is None:
            raise NotFound(f"model {name[:128]!r} is not in this server's catalogue")
        return model.wire()

    def find(self, name: str) -> Model | None:
        """The model with this id or alias."""
        return self._by_name.get(name)

    def check_chosen(self, name: str, at: str) -> None:
        """Raises InvalidRequest unless a rule may choose this model. `at`: the place of its name in the request."""
        model = self._by_name.get(name)
        if model is None:
            raise InvalidRequest(
                f"{at}: {name[:128]!r} is not in this server's catalogue; choose a model that GET /v1/models lists"
            )
        if model.lifecycle == "retired":
            raise InvalidRequest(f"{at}: {name} is retired; choose a model that GET /v1/models lists")

    def list(
        self, *, limit: int, after_id: str | None, before_id: str | None, lifecycle: frozenset[Lifecycle]
    ) -> ModelPage:
        """`limit` models after `after_id`, or right before `before_id`; without a lifecycle, all but the retired."""
        if after_id is not None and before_id is not None:
            raise InvalidRequest("after_id and before_id can't be combined; send one of them")
        wanted = lifecycle or frozenset(("active", "deprecated"))
        rows = [model for model in self._models if model.lifecycle in wanted]
        if after_id is not None:
            rows = rows[self._place(rows, after_id, "after_id") + 1 :]
        if before_id is not None:
            rows = rows[: self._place(rows, before_id, "before_id")]
            return ModelPage(rows[-limit:], len(rows) > limit)
        return ModelPage(rows[:limit], len(rows) > limit)

    def helpers(self) -> frozenset[str]:
        """Names of the small models: the harness gives them errands, such as reading a page that it fetched."""
        listed = (*CATALOGUE, *self._models)
        return frozenset(name for model in listed if model.line == "haiku" for name in (model.id, *model.aliases))

    def default_effort(self, name: str) -> EffortLevel:
        """The effort a model works with when the request names none."""
        model = self._by_name.get(name)
        return DEFAULT_EFFORT if model is None else model.default_effort

    def _place(self, rows: Sequence[Model], name: str, parameter: str) -> int:
        model = self._by_name.get(name)
        if model is None or model not in rows:
            raise InvalidRequest(f"{parameter}: {name[:128]!r} is not a model of this list")
        return rows.index(model)
