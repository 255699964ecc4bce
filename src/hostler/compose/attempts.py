"""How do the rules for failed model requests follow from the settings?"""

from __future__ import annotations

from hostler.config import Settings
from hostler.gateway import Backoff, BreakerTerms, Patience


def patience(settings: Settings) -> Patience:
    of = settings.attempts
    return Patience(
        retries=settings.model.retries,
        costly_retries=of.costly_retries,
        total_seconds=of.total_seconds,
        first_event_seconds=of.first_event_seconds,
        tries_before_fallback=of.tries_before_fallback,
        wait_before_fallback_seconds=of.wait_before_fallback_seconds,
        backoff=Backoff(of.base_seconds, of.longest_pause_seconds, of.most_retry_after_seconds),
        breaker=BreakerTerms(
            failures=of.breaker_failures,
            rate=of.breaker_rate,
            least=of.breaker_least,
            window_seconds=of.breaker_window_seconds,
            open_seconds=of.breaker_open_seconds,
            longest_open_seconds=of.breaker_longest_open_seconds,
            trial_seconds=of.first_event_seconds,
        ),
    )


def harness_settings(settings: Settings) -> dict[str, str]:
    """What `claude` is told of retries and time: it asks again only where the gateway can't, and waits for as long as
    the gateway goes on."""
    return {
        "CLAUDE_CODE_MAX_RETRIES": str(settings.attempts.harness_retries),
        "API_TIMEOUT_MS": str(int((settings.attempts.total_seconds + 60.0) * 1000)),
    }
