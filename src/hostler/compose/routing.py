"""How do the rules that choose models follow from the settings?"""

from __future__ import annotations

import json
from pathlib import Path

from hostler.compose.terms import model_catalogue
from hostler.config import Settings
from hostler.domain.clock import Clock, SystemClock
from hostler.domain.errors import InvalidRequest
from hostler.domain.routing import OperatorRouting
from hostler.domain.values import parse
from hostler.engine.model_fit import ModelFit
from hostler.engine.models import Models
from hostler.engine.routing import NO_RULES, RuleRouter, check_operator


def operator_routing(settings: Settings) -> OperatorRouting:
    """Raises InvalidRequest for a file that holds no rules."""
    if not settings.routing.file:
        return NO_RULES
    file = Path(settings.routing.file).expanduser()
    try:
        routing = parse(OperatorRouting, json.loads(file.read_bytes()))
        check_operator(model_catalogue(settings), routing)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"routing.file {file}: {error}") from error
    except InvalidRequest as error:
        raise InvalidRequest(f"routing.file {file}: {error.message}") from error
    return routing


def routed_catalogue(settings: Settings) -> Models:
    """The catalogue that knows what the operator's rules may choose. Raises InvalidRequest."""
    return model_catalogue(settings, operator_routing(settings).models)


def rule_router(settings: Settings, clock: Clock | None = None) -> tuple[RuleRouter, ModelFit]:
    """What a gateway's desk takes as `router` and `fitter`. Raises InvalidRequest."""
    fit = ModelFit(model_catalogue(settings))
    return RuleRouter(fit, (clock or SystemClock()).now, operator_routing(settings)), fit
