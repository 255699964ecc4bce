"""The commands, as processes, against a real server with the rehearsal model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic
from typing import Any

import anthropic
import pytest
from cli_processes import START_SECONDS, Result, Server, environment, hostler, read_line, start

from hostler.testing.rehearsal import prompt, step, text, tool

WORK = prompt(
    [
        step(text("I'll \x1b[31mwork\x1b[0m."), tool("bash", command="printf 'one\\033]0;owned\\007\\n'; echo two")),
        step("It said: {{last_tool_result}}"),
    ],
    "Please work.",
)
BREAK = prompt([step(stop_details={"category": "cyber", "explanation": "Not that."}, content=["No."])], "Please don't.")


def the_only_key(server: Server, name: str) -> str:
    keys = server.hostler("key", "list", "--json").json["keys"]
    return next(str(key["id"]) for key in keys if key["name"] == name)


def status_with(server: Server, key: str) -> int:
    request = urllib.request.Request(f"{server.url}/v1/agents", headers={"x-api-key": key})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# ------------------------------------------------------------------------------------------- serve


def test_server_says_what_it_is_and_leaves_a_private_client_file(server: Server) -> None:
    facts = server.facts
    assert facts["type"] == "serving"
    assert facts["model"]["rehearsal"] is True
    assert facts["isolation"]["technology"] == "bubblewrap"
    assert facts["state_dir"] == str(server.state_dir)
    mode = (server.state_dir / "client.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert status_with(server, server.api_key) == 200
    assert "serving" in [line["event"] for line in server.logs()]


def test_second_server_on_the_same_state_folder_is_refused(server: Server) -> None:
    result = server.hostler("serve", "--port", "0")
    assert result.code == 2
    assert "another Hostler uses" in result.err
    assert "try: hostler serve --state-dir" in result.err


def test_taken_port_is_said_with_a_way_out(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    result = hostler("serve", "--port", port, HOSTLER_STATE_DIR=str(tmp_path))
    assert result.code == 2
    assert f"port {port}" in result.err
    assert "try: hostler serve --port 0" in result.err


def test_server_does_not_listen_beyond_loopback_without_a_key(tmp_path: Path) -> None:
    result = hostler("serve", "--host", "0.0.0.0", "--port", "0", HOSTLER_STATE_DIR=str(tmp_path))
    assert result.code == 2
    assert "without an API key" in result.err
    assert "try: hostler key create" in result.err
    assert hostler("key", "create", "first", HOSTLER_STATE_DIR=str(tmp_path)).code == 0
    server = start(tmp_path, "--host", "0.0.0.0")
    try:
        assert server.url.startswith("http://0.0.0.0:")
        assert json.loads((tmp_path / "client.json").read_text())["base_url"].startswith("http://127.0.0.1:")
        assert server.hostler("sessions", "list", "--json").json == {"sessions": []}
    finally:
        assert server.stop() == 0


def test_first_signal_lets_the_running_turn_end(tmp_path: Path) -> None:
    server = start(tmp_path)
    slow = prompt([step(tool("bash", command="echo started; sleep 1; echo ended")), step("All done.")], "Go.")
    run = subprocess.Popen(
        [sys.executable, "-m", "hostler.cli.main", "run", "--json", "--keep", slow],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(HOSTLER_STATE_DIR=str(tmp_path)),
    )
    try:
        while json.loads(read_line(run, 60))["type"] != "agent.tool_use":
            pass
        server.process.send_signal(signal.SIGTERM)
        seen = []
        while line := read_line(run, 60):
            seen.append(json.loads(line))
        assert "All done." in json.dumps(seen)
        assert seen[-1]["stop_reason"] == "end_turn"
        assert server.process.wait(60) == 0
    finally:
        run.kill()
        run.wait()
        assert run.stdout is not None
        run.stdout.close()
        server.stop(signal.SIGKILL)
    events = [line["event"] for line in server.logs()]
    assert events[-2:] == ["stopping", "stopped"]
    assert "error" not in [line["level"] for line in server.logs()]


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    server = start(tmp_path, HOSTLER_WORKER__DRAIN_SECONDS="3600")
    endless = prompt([step(tool("bash", command="sleep 600"))], "Go.")
    run = subprocess.Popen(
        [sys.executable, "-m", "hostler.cli.main", "run", "--json", "--keep", endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(HOSTLER_STATE_DIR=str(tmp_path)),
    )
    try:
        while json.loads(read_line(run, 60))["type"] != "agent.tool_use":
            pass
        server.process.send_signal(signal.SIGINT)
        # The two must arrive one after the other: the kernel joins signals that wait.
        wait_for_log(server, "draining")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=100) == 0
        _, said = run.communicate(timeout=60)
        assert run.returncode == 1
        assert json.loads(said)["error"]["next"].startswith("hostler sessions")
    finally:
        run.kill()
        run.communicate()
        server.stop(signal.SIGKILL)


def wait_for_log(server: Server, event: str) -> None:
    log = server.state_dir / "server.log"
    follow = subprocess.run(
        ["timeout", "30", "sh", "-c", f'tail -n +1 -f {log} | grep -m 1 \'"event": "{event}"\''],
        capture_output=True,
        check=False,
    )
    assert follow.returncode == 0, log.read_text()


# ------------------------------------------------------------------------------------------- run


def test_run_prints_every_event_as_a_json_line_and_a_result(server: Server) -> None:
    result = server.hostler("run", "--json", "--tool", "bash", WORK)
    assert result.code == 0, result.err
    lines = result.lines
    types = [line["type"] for line in lines]
    assert types[0] == "user.message"
    assert types[-4:] == ["session.thread_status_idle", "session.usage", "session.status_idle", "run.result"]
    assert types.index("agent.tool_use") < types.index("agent.tool_result")
    assert lines[-1]["ok"] is True
    assert lines[-1]["stop_reason"] == "end_turn"
    assert lines[-1]["usage"]["output_tokens"] > 0
    shown = server.hostler("sessions", "show", "--json", lines[-1]["session_id"]).json
    assert shown["status"] == "terminated"
    assert shown["agent"]["tools"][0]["configs"][0]["name"] == "bash"
    tailed = server.hostler("sessions", "tail", "--json", lines[-1]["session_id"]).lines
    assert [line["seq"] for line in tailed] == list(range(1, len(tailed) + 1))
    assert [line["event"]["id"] for line in tailed][: len(lines) - 1] == [line["id"] for line in lines[:-1]]


def test_run_shows_a_person_what_happens_without_escape_sequences(server: Server) -> None:
    result = server.hostler("run", WORK)
    assert result.code == 0, result.err
    assert "I'll work." in result.out
    assert "● bash  printf" in result.out
    assert "one" in result.out
    assert "two" in result.out
    assert "end_turn · 1 tool call · " in result.out
    assert "\x1b" not in result.out
    assert "\x07" not in result.out
    assert "hostler sessions tail sesn_" in result.err


def test_a_session_that_waits_for_a_budget_is_not_archived(server: Server) -> None:
    made = server.hostler("budget", "create", "0.01", "--period", "total", "--json").json
    try:
        paused = server.hostler("run", prompt(["At last."], "Say it."))
        assert (paused.code, "budget_reached" in paused.out) == (1, True)
        assert f"of the workspace ({made['id']}) is reached" in paused.out
        session = paused.err.rpartition("hostler sessions tail ")[2].split()[0]
        assert f"hostler sessions tail {session} --follow" in paused.err
        follower = subprocess.Popen(
            [sys.executable, "-m", "hostler.cli.main", "sessions", "tail", "--json", "--follow", session],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(HOSTLER_STATE_DIR=str(server.state_dir)),
        )
        try:
            assert server.hostler("budget", "change", made["id"], "--limit", "5").code == 0
            said = ""
            while "At last." not in said:
                said = read_line(follower, 60)
                assert said, "the stream ended before the session went on"
        finally:
            follower.kill()
            follower.wait()
            assert follower.stdout is not None
            follower.stdout.close()
    finally:
        server.hostler("budget", "remove", made["id"])


def test_kept_session_goes_on_and_agent_and_environment_are_found_again(server: Server) -> None:
    first = server.hostler("run", "--json", "--keep", prompt(["First."], "A"))
    session_id = first.lines[-1]["session_id"]
    second = server.hostler("run", "--json", "--session", session_id, prompt(["Second."], "B"))
    assert second.code == 0, second.err
    assert second.lines[-1]["session_id"] == session_id
    assert "Second." in second.out
    with anthropic.Anthropic(base_url=server.url, api_key=server.api_key) as client:
        assert [agent.name for agent in client.beta.agents.list()].count("Terminal") == 1
        assert [found.name for found in client.beta.environments.list()].count("terminal") == 1


def test_allowed_hosts_are_the_rules_of_the_environment(server: Server) -> None:
    result = server.hostler("run", "--json", "--env-allow-host", "api.example.com", prompt(["Hi."], "A"))
    assert result.code == 0, result.err
    session = server.hostler("sessions", "show", "--json", result.lines[-1]["session_id"]).json
    with anthropic.Anthropic(base_url=server.url, api_key=server.api_key) as client:
        config = client.beta.environments.retrieve(session["environment_id"]).to_dict()["config"]
        assert config["networking"]["allowed_hosts"] == ["api.example.com"]  # type: ignore[index]


def test_turn_that_fails_is_a_failed_command(server: Server) -> None:
    result = server.hostler("run", "--json", BREAK)
    assert result.code == 1
    assert result.lines[-1]["ok"] is False
    assert result.lines[-1]["stop_reason"] == "refusal"


def test_question_without_a_terminal_leaves_the_session_waiting(server: Server) -> None:
    script = prompt([step(tool("bash", command="echo hi")), step("Done.")], "Ask me.")
    result = server.hostler("run", "--json", "--tool", "bash:ask", script)
    assert result.code == 1
    assert result.lines[-1]["stop_reason"] == "requires_action"
    assert "asks for a person" in result.err
    session = server.hostler("sessions", "show", "--json", result.lines[-1]["session_id"]).json
    assert session["status"] == "idle"


def typed(server: Server, reply: str, *arguments: str) -> Result:
    """A command at a terminal, where the reply was typed ahead."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hostler.cli.main", *arguments],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(HOSTLER_STATE_DIR=str(server.state_dir)),
    )
    os.close(theirs)
    try:
        os.write(ours, f"{reply}\n".encode())
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(ours)
    return Result(process.returncode, out, err)


@pytest.mark.parametrize(
    ("reply", "said"), [("y", "It said: hi"), ("not today", "not today")], ids=["allowed", "denied with a reason"]
)
def test_person_at_the_terminal_is_asked(server: Server, reply: str, said: str) -> None:
    script = prompt([step(tool("bash", command="echo hi")), step("It said: {{last_tool_result}}")], "Ask me.")
    result = typed(server, reply, "run", "--tool", "bash:ask", script)
    assert "The agent wants to call bash" in result.out
    assert '"command": "echo hi"' in result.out
    assert said in result.out
    assert result.code == 0 or reply != "y", result.err


def test_waiting_session_asks_for_its_answers_before_it_takes_a_prompt(server: Server) -> None:
    script = prompt([step(tool("bash", command="echo hi")), step("It said: {{last_tool_result}}")], "Ask me.")
    waiting = server.hostler("run", "--tool", "bash:ask", script)
    session_id = next(word for word in waiting.err.split() if word.startswith("sesn_"))
    assert f"Answer it at a terminal with: hostler run --session {session_id}" in waiting.err
    refused = server.hostler("run", "--session", session_id, prompt(["Lost."], "Next."))
    assert refused.code == 1
    assert "waits for a person to answer its calls (bash); nothing was sent" in refused.err
    answered = typed(server, "y", "run", "--session", session_id, prompt(["And on."], "Next."))
    assert answered.code == 0, answered.err
    places = [answered.out.index(text) for text in ("The agent wants to call bash", "It said: hi", "And on.")]
    assert places == sorted(places)
    assert "Lost." not in server.hostler("sessions", "tail", session_id).out


def test_waiting_session_is_answered_without_a_prompt(server: Server) -> None:
    script = prompt([step(tool("bash", command="echo hi")), step("It said: {{last_tool_result}}")], "Ask me.")
    waiting = server.hostler("run", "--json", "--tool", "bash:ask", script)
    session_id = waiting.lines[-1]["session_id"]
    answered = typed(server, "y", "run", "--session", session_id)
    assert answered.code == 0, answered.err
    assert "It said: hi" in answered.out
    idle = server.hostler("run", "--session", session_id)
    assert idle.code == 2
    assert "waits for nobody's answer" in idle.err


def test_ctrl_c_interrupts_the_session(server: Server) -> None:
    endless = prompt([step(tool("bash", command="sleep 600"))], "Go.")
    process = subprocess.Popen(
        [sys.executable, "-m", "hostler.cli.main", "run", "--json", endless],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(HOSTLER_STATE_DIR=str(server.state_dir)),
    )
    try:
        while (event := json.loads(read_line(process, 60)))["type"] != "agent.tool_use":
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=100) == 130
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    session_id = server.hostler("sessions", "list", "--json", "--limit", "1").json["sessions"][0]["id"]
    with anthropic.Anthropic(base_url=server.url, api_key=server.api_key) as client:
        with client.beta.sessions.events.stream(session_id, extra_headers={"Last-Event-ID": "0"}) as stream:
            kinds = []
            for found in stream:
                kinds.append(found.type)
                if found.type == "session.status_idle":
                    break
        assert event["name"] == "bash"
        assert "user.interrupt" in kinds


# ------------------------------------------------------------------------------------------- sessions


def test_environments_are_listed_with_their_hosting(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key=server.api_key) as client:
        config: Any = {"type": "cloud", "hosting": {"pattern": "hybrid", "idle_timeout_seconds": 5}}
        made = client.beta.environments.create(name="quick", config=config)
        stays: Any = {"type": "cloud", "hosting": {"pattern": "long_running"}}
        client.beta.environments.create(name="stays", config=stays)
        listed = server.hostler("environment", "list", "--json", "--limit", "2").json["environments"]
        assert [row["name"] for row in listed] == ["stays", "quick"]
        assert listed[1] == json.loads(client.beta.environments.retrieve(made.id).to_json())
        shown = server.hostler("environment", "list").out
        assert "long_running" in shown
        assert "hybrid, idle after 5 s" in shown


def test_sessions_are_listed_followed_and_ended(server: Server) -> None:
    made = server.hostler("run", "--json", "--keep", prompt(["Hi."], "A title"))
    session_id = made.lines[-1]["session_id"]
    listed = server.hostler("sessions", "list", "--json", "--limit", "1").json["sessions"]
    assert [row["id"] for row in listed] == [session_id]
    assert session_id in server.hostler("sessions", "list").out
    assert "claude-opus-5-5" in server.hostler("sessions", "show", session_id).out

    follower = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hostler.cli.main",
            "sessions",
            "tail",
            "--json",
            "--follow",
            "--since",
            "3",
            session_id,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(HOSTLER_STATE_DIR=str(server.state_dir)),
    )
    try:
        assert json.loads(read_line(follower, 30))["seq"] == 4
        done = server.hostler("sessions", "delete", "--json", session_id)
        assert done.json == {"id": session_id, "done": "delete"}
        last = {}
        while line := read_line(follower, 30):
            last = json.loads(line)
        assert last["event"]["type"] == "session.deleted"
        assert follower.wait(timeout=100) == 0
    finally:
        follower.kill()
        follower.wait()
        assert follower.stdout is not None
        follower.stdout.close()
    gone = server.hostler("sessions", "show", session_id)
    assert gone.code == 1
    assert "try: hostler sessions list" in gone.err


# ------------------------------------------------------------------------------------------- keys


def test_new_key_opens_the_running_server_and_a_revoked_one_does_not(server: Server) -> None:
    made = server.hostler("key", "create", "--json", "my-app").json
    assert status_with(server, made["secret"]) == 200
    listed = server.hostler("key", "list", "--json")
    assert made["secret"] not in listed.out
    assert the_only_key(server, "my-app") == made["id"]
    assert server.hostler("key", "revoke", made["id"]).code == 0
    end, asked = monotonic() + 2.0, 0.0
    while (status := status_with(server, made["secret"])) == 200:
        assert asked < end, "asked after two seconds, and let in"
        asked = monotonic()
    assert status == 401


def test_secret_of_a_new_key_is_all_of_standard_output(server: Server) -> None:
    made = server.hostler("key", "create", "for-a-script")
    assert made.out.startswith("hk-")
    assert len(made.out.split()) == 1
    assert "Keep the secret now" in made.err


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "code", "said", "then"),
    [
        (("sessions", "list"), 1, "no server known", "hostler serve"),
        (
            ("sessions", "list", "--url", "http://127.0.0.1:9", "--api-key", "k"),
            1,
            "no server answers",
            "hostler serve",
        ),
        (("run", "hi", "--url", "http://127.0.0.1:9"), 2, "no API key", "hostler key create"),
        (("run", "hi", "--url", "127.0.0.1:9"), 2, "no scheme", "--url http://127.0.0.1:9"),
        (("run", "hi", "--tool", "hammer", "--url", "http://x", "--api-key", "k"), 2, "hammer", "--tool bash"),
        (("serve", "--config", "/does/not/exist.toml"), 2, "configuration file", "hostler serve --help"),
        (("serve", "--store-url", "mysql://x"), 2, "sqlite:/// or postgresql://", "hostler serve --help"),
        (("serve", "--log-level", "loud"), 2, "loud", "--log-level"),
        (("key", "revoke", "apikey_none"), 1, "does not exist", "hostler key list"),
        (("key", "list", "--store-url", "postgresql://nobody@127.0.0.1:9/x"), 1, "", "hostler doctor"),
        (("rehearse", "--script", "/does/not/exist.json"), 2, "can't read the script", "hostler rehearse"),
    ],
)
def test_errors_end_with_the_next_command(
    arguments: tuple[str, ...], code: int, said: str, then: str, tmp_path: Path
) -> None:
    result = hostler(*arguments, HOSTLER_STATE_DIR=str(tmp_path))
    assert (result.code, result.out) == (code, "")
    first, second = result.err.strip().splitlines()
    assert first.startswith("hostler: ")
    assert said in first
    assert second.startswith("  try: ")
    assert then in second


def test_errors_are_json_for_programs(tmp_path: Path) -> None:
    result = hostler("sessions", "list", "--json", HOSTLER_STATE_DIR=str(tmp_path))
    assert result.code == 1
    error = json.loads(result.err)
    assert error["type"] == "error"
    assert error["error"].keys() == {"message", "next"}


def test_wrong_option_is_a_usage_error() -> None:
    result = hostler("serve", "--frobnicate")
    assert result.code == 2
    assert "hostler serve --help" in result.err


def test_saved_key_is_not_sent_to_another_server(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        result = server.hostler("sessions", "list", "--url", url)
    assert result.code == 2
    assert "no API key" in result.err


# ------------------------------------------------------------------------------------------- looking around


def test_doctor_says_what_this_host_gives(server: Server) -> None:
    every = {"HOSTLER_SANDBOX__GVISOR__RUNSC": "runsc", "HOSTLER_SANDBOX__MICROVM__QEMU": "qemu-system-x86_64"}
    result = hostler("doctor", "--json", HOSTLER_STATE_DIR=str(server.state_dir), **every)
    findings = {finding["check"]: finding for finding in result.json["findings"]}
    assert {"python", "bwrap", "socat", "seccomp", "cgroups", "claude", "database", "model"} <= set(findings)
    assert findings["rung 1, bubblewrap"]["verdict"] == "ok"
    assert findings["preset development"]["verdict"] == "ok"
    rungs = result.json["rungs"]
    assert set(rungs) == {"bubblewrap", "docker", "podman", "gvisor", "microvm"}
    assert rungs["bubblewrap"]["isolation"]["technology"] == "bubblewrap"
    for name, rung in rungs.items():  # whatever this host gives: a label, or why not
        assert (rung["isolation"] is None) == bool(rung["why"]) == (not rung["available"]), name
    assert findings["model"]["verdict"] == "warn"
    assert findings["server"]["found"].startswith("answers at")
    assert result.code == 0
    assert "export ANTHROPIC_API_KEY" in server.hostler("doctor").out


@pytest.mark.slow
@pytest.mark.needs_root
def test_an_attack_that_is_ended_takes_its_sandboxes_along(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "hostler.cli.main", "doctor", "--attack", "--technology", "bubblewrap"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(HOSTLER_STATE_DIR=str(tmp_path / "state"), TMPDIR=str(tmp_path)),
    )
    while "attacking bubblewrap" not in (line := read_line(process, START_SECONDS)):
        assert line
    until = monotonic() + START_SECONDS
    while not (standing := programs_below(tmp_path) - {process.pid}):
        assert monotonic() < until
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_SECONDS) == 143
    assert process.stdout is not None
    process.stdout.close()
    assert standing
    assert programs_below(tmp_path) == set()


def programs_below(folder: Path) -> set[int]:
    """Processes that name something below it in their arguments."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def test_doctor_fails_when_the_database_is_out_of_reach(tmp_path: Path) -> None:
    result = hostler("doctor", "--store-url", "postgresql://u:secret@127.0.0.1:9/x", HOSTLER_STATE_DIR=str(tmp_path))
    assert result.code == 1
    assert "fail database" in result.out
    assert "secret" not in result.out


def test_advice_names_the_command_as_it_was_called(tmp_path: Path) -> None:
    result = hostler("sessions", "list", HOSTLER_STATE_DIR=str(tmp_path), HOSTLER_COMMAND="scripts/hostler")
    assert "try: scripts/hostler serve" in result.err


def test_rehearsal_model_that_cannot_start_says_why(server: Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"bad')
    taken = server.url.rpartition(":")[2]
    for arguments, said in (
        (("--script", str(broken)), "the script can't be followed"),
        (("--script", str(tmp_path / "none.json")), "can't read the script"),
        (("--port", taken), f"can't listen on 127.0.0.1, port {taken}"),
    ):
        result = hostler("rehearse", *arguments)
        assert result.code == 2
        assert f"hostler: {said}" in result.err
        assert "try: hostler rehearse" in result.err


def test_empty_prompts_and_names_are_refused(server: Server) -> None:
    before = len(server.hostler("sessions", "list", "--json", "--archived").json["sessions"])
    assert server.hostler("run", " ").code == 2
    assert server.hostler("key", "create", " ").code == 2
    assert len(server.hostler("sessions", "list", "--json", "--archived").json["sessions"]) == before


def test_version_names_what_runs() -> None:
    found = hostler("version", "--json").json
    assert found.keys() == {"hostler", "claude", "agent_sdk", "client", "python"}
    assert all(value[0].isdigit() for value in found.values())


def test_rehearsal_model_runs_alone(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"when": "weather", "steps": ["Rain."]}]))
    process = subprocess.Popen(
        [sys.executable, "-m", "hostler.cli.main", "rehearse", "--json", "--script", str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        url = json.loads(read_line(process, 30))["base_url"]
        with anthropic.Anthropic(base_url=url, api_key="any") as client:
            answer = client.messages.create(
                model="claude-opus-5-5", max_tokens=10, messages=[{"role": "user", "content": "How is the weather?"}]
            )
        assert answer.content[0].to_dict()["text"] == "Rain."
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


# ------------------------------------------------------------------------------------------- start


def test_start_plays_a_demo_and_stops_when_asked_for_once(tmp_path: Path) -> None:
    result = hostler("start", "--once", "--port", "0", HOSTLER_STATE_DIR=str(tmp_path))
    assert result.code == 0, result.out + result.err
    for part in ("base URL", "API key", "REHEARSAL", "● bash", "● write", "end_turn · 3 tool calls", "Stopped."):
        assert part in result.out
    assert result.err == ""
    again = hostler("start", "--once", "--port", "0", HOSTLER_STATE_DIR=str(tmp_path))
    assert again.code == 0
    assert len(hostler("key", "list", "--json", HOSTLER_STATE_DIR=str(tmp_path)).json["keys"]) == 1


def test_demo_that_fails_is_a_failed_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = hostler(
        "start", "--once", "--port", "0",
        HOSTLER_STATE_DIR=str(tmp_path), HOSTLER_MODEL__BASE_URL=f"http://127.0.0.1:{port}", HOSTLER_MODEL__RETRIES="0",
    )  # fmt: skip
    assert result.code == 1
    assert "did not end well" in result.out
