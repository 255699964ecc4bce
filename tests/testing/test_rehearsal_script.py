"""What a script may say, and what a person is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.testing.rehearsal import Script, ScriptError, prompt, rule, script, step, text, thinking, tool


def _body(rendered: str) -> str:
    return rendered.split("```rehearse\n")[1].rsplit("\n```", 1)[0]


def test_what_prompt_renders_reads_back_as_the_same_steps() -> None:
    steps = [
        step(thinking("hm"), text("häi ```", rate=50), tool("bash", command="ls")),
        step("again", error=429, times=2, retry_after=1.5),
        step("too long", prompt_too_long={"tokens": 5, "maximum": 4}),
        step(stop_reason="refusal", stop_details={"category": "cyber"}),
    ]
    assert Script.from_json(_body(prompt(steps, "Please:"))).steps == tuple(steps)
    assert Script.from_json(_body(prompt(steps, start=2))).start == 2


def test_a_step_may_be_written_short() -> None:
    assert script("hi") == Script.from_json('["hi"]') == Script.from_json('[{"type": "text", "text": "hi"}]')
    assert script("hi") == Script.from_json('[{"content": "hi"}]') == Script.from_json('[["hi"]]')


def test_a_list_of_rules_is_a_script_with_rules() -> None:
    read = Script.from_json('[{"when": "hello", "steps": ["hi"]}, {"when": "^b.e$", "regex": true, "steps": ["bye"]}]')
    assert read == script(rule("hello", "hi"), rule("^b.e$", "bye", regex=True))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("[", "not JSON: Expecting value at line 1, column 2"),
        ("3", "a list of steps or an object"),
        ("[]", "an empty script"),
        ("[{}]", "steps[0]: an empty step"),
        ('["a", {"content": [{"type": "txt"}]}]', "steps[1].content[0]: a block's `type` is one of text,"),
        ('[{"content": [{"type": "text", "txt": "a"}]}]', "steps[0].content[0].txt: unknown key"),
        ('[{"content": [{"type": "tool_use", "input": {}}]}]', "steps[0].content[0].name: Field required"),
        ('[{"content": [{"type": "text", "text": "a", "rate": 1, "delay_ms": 1}]}]', "`rate` or `delay_ms`, not both"),
        ('[{"error": "429"}]', "steps[0].error"),
        ('[{"error": 200}]', "steps[0].error"),
        ('[{"cut": 1, "hang": 2}]', "at most one failure, this one has cut and hang"),
        ('[{"content": "a", "times": 2}]', "`times` belongs to a failure"),
        ('[{"content": "a", "nope": 2}]', "steps[0].nope: unknown key"),
        ('[{"when": "a"}]', "rules[0].steps: Field required"),
        ('[{"when": "(", "regex": true, "steps": ["a"]}]', "not a regular expression"),
    ],
)
def test_a_mistake_is_told_with_its_place(source: str, told: str) -> None:
    with pytest.raises(ScriptError) as raised:
        Script.from_json(source)
    assert told in str(raised.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text("{}")
    with pytest.raises(ScriptError, match=r"script\.json: an empty script"):
        Script.from_file(path)


def test_a_builder_refuses_what_the_reader_refuses() -> None:
    with pytest.raises(ScriptError, match="unknown key"):
        step("a", colour="red")
