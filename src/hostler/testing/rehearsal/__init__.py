"""The rehearsal model: a scripted Messages API for tests, demos and benchmarks, without a key or a network.

    async with RehearsalModel() as model:
        client = anthropic.AsyncAnthropic(base_url=model.url, api_key="any")
        text = prompt([step(text("I'll look."), tool("bash", command="ls")), step("{{last_tool_result}} - done.")])

The reference of the script is docs/how-to/test-your-agent-with-the-rehearsal-model.md.
"""

from hostler.testing.rehearsal.build import gate, prompt, rule, script, stamps, step, text, thinking, tool
from hostler.testing.rehearsal.choose import Responder
from hostler.testing.rehearsal.conversation import Conversation
from hostler.testing.rehearsal.improvise import improvise
from hostler.testing.rehearsal.record import RecordedRequest, Recorder
from hostler.testing.rehearsal.server import RehearsalModel, serve
from hostler.testing.rehearsal.steps import Rule, Script, ScriptError, Step

__all__ = [
    "Conversation",
    "RecordedRequest",
    "Recorder",
    "RehearsalModel",
    "Responder",
    "Rule",
    "Script",
    "ScriptError",
    "Step",
    "gate",
    "improvise",
    "prompt",
    "rule",
    "script",
    "serve",
    "stamps",
    "step",
    "text",
    "thinking",
    "tool",
]
