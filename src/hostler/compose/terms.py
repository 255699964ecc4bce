"""What do the settings mean for one part each? Values in, the parts' own terms out."""

from __future__ import annotations

from pathlib import Path

from hostler.config import Settings
from hostler.domain.price_files import read_prices
from hostler.domain.prices import NANOS_OF_A_DOLLAR, Prices
from hostler.domain.quotas import PRESETS, Quotas
from hostler.egress.webhooks import WebhookRules
from hostler.engine.archives import ArchiveLimits
from hostler.engine.files import FileTerms
from hostler.engine.models import CATALOGUE, Models, read_catalogue
from hostler.engine.outputs import OutputLimits
from hostler.engine.placement import PresetTerms
from hostler.engine.webhook_courier import CourierSettings


def file_terms(settings: Settings) -> FileTerms:
    return FileTerms(
        most_bytes=settings.files.max_file_mb << 20, uploads_downloadable=settings.files.uploads_downloadable
    )


def output_limits(settings: Settings) -> OutputLimits:
    limits = settings.files
    return OutputLimits(
        files=limits.max_outputs, file_bytes=limits.max_file_mb << 20, total_bytes=limits.max_outputs_mb << 20
    )


def archive_limits(settings: Settings) -> ArchiveLimits:
    wanted = settings.compaction
    return ArchiveLimits(wanted.session_archive_mb << 20, wanted.workspace_archive_mb << 20, when_full=wanted.when_full)


def model_catalogue(settings: Settings, routed: frozenset[str] = frozenset()) -> Models:
    """Raises InvalidRequest for a file that is not a catalogue. `routed`: what the operator's rules may choose."""
    file = settings.models.file
    return Models(read_catalogue(Path(file).expanduser()) if file else CATALOGUE, routed)


def price_table(settings: Settings) -> Prices:
    """Raises InvalidRequest for a file that is not a price table."""
    return read_prices(Path(settings.prices.file).expanduser()) if settings.prices.file else Prices()


def runtime_price(settings: Settings) -> int:
    """Of an hour in which a session is worked on, in billionths of a dollar."""
    return round(settings.prices.runtime_usd_per_hour * NANOS_OF_A_DOLLAR)


def quota_defaults(settings: Settings) -> Quotas:
    """The limits of a workspace that has none of its own: the preset's, where no number is set."""
    preset = PRESETS[settings.quotas.preset]
    return {name: getattr(settings.quotas, name) or preset[name] for name in preset}


def webhook_rules(settings: Settings) -> WebhookRules:
    wanted = settings.webhooks
    return WebhookRules(
        allow_http=wanted.allow_http,
        private_allowed=wanted.private_allowed,
        deadline_seconds=wanted.deadline_seconds,
    )


def webhook_lease_seconds(settings: Settings) -> float:
    """Longer than any attempt takes: a lease that ends in the middle of one has the same event sent again and again."""
    return settings.webhooks.deadline_seconds + 45.0


def courier_settings(settings: Settings) -> CourierSettings:
    return CourierSettings(settings.webhooks.retry_seconds, settings.webhooks.disable_after)


def preset_terms(settings: Settings) -> PresetTerms:
    presets = settings.presets
    return PresetTerms(
        default=presets.default,
        minimum=presets.production_minimum,
        approvals=presets.production_approvals,
        limits=presets.production_limits,
        attacks=presets.production_attacks,
        preferred=settings.sandbox.technology or None,
    )
