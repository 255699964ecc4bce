"""What would a list of rules say to a request that was recorded? The policy of the roads, without a road."""

from __future__ import annotations

from collections.abc import Callable

from hostler.domain.values import sentence
from hostler.egress.policy import BadTarget, McpTarget, Policy, Target, normalise
from hostler.engine.egress_port import EgressRules
from hostler.engine.policy_port import Asked, Judge, Judged


class PolicyTrials:
    """Implements `PolicyTrial`. `policy_of` makes the policy of a road from its rules."""

    def __init__(self, policy_of: Callable[[EgressRules], Policy] = Policy) -> None:
        self._policy_of = policy_of

    def of(self, rules: EgressRules) -> Judge:
        policy = self._policy_of(rules)
        return lambda asked: _judged(policy, asked)


def _judged(policy: Policy, asked: Asked) -> Judged:
    try:
        host, is_address = _host(asked.host)
    except BadTarget as bad:
        return Judged(False, "bad_request", f"{sentence(str(bad))}.")
    if asked.mcp:
        verdict = policy.judge_server(McpTarget("https", host, asked.port, asked.path or "/", is_address))
        return Judged(verdict.allowed, verdict.reason, verdict.hint)
    target = Target(host, asked.port, is_address)
    verdict = policy.judge_request(target, asked.method, asked.path) if asked.path else policy.judge(target)
    if verdict.inside and not asked.path:
        return Judged(None, verdict.reason, "What was said in this tunnel was not read, so the rule can't be tried.")
    return Judged(verdict.allowed, verdict.reason, verdict.hint)


def _host(text: str) -> tuple[str, bool]:
    return (text, True) if ":" in text else normalise(text)
