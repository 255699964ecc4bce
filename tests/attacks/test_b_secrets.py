"""B3, B4, B5: from a session's shell no secret of the server and nothing of a neighbour can be reached."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from attackkit import shell
from housekit import House, content_of, open_house

from hostler.testing.rehearsal import step

UPSTREAM = "sk-canary-upstream-77aa"
ENVIRONMENT = "canary-environment-77aa"
NEIGHBOUR = "canary-neighbour-77aa"

SEARCH = r"""
( cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo 2>/dev/null
  for at in /proc/[0-9]*/fd/*; do readlink $at; timeout 1 head -c 200000 $at </dev/null; done 2>/dev/null
  find / -xdev \( -path /proc -o -path /sys -o -path /usr \) -prune -o -type f -size -4M -print0 2>/dev/null \
    | xargs -0 cat 2>/dev/null
  env; ls -laR /run /home /tmp /workspace /mnt 2>/dev/null ) > /tmp/.found
grep -a -o -i 'canary-[a-z]*-77[a]a' /tmp/.found | sort -u
grep -a -c . /tmp/.found | sed 's/^/lines: /'; rm /tmp/.found
find / \( -path /proc -o -path /sys -o -path /usr \) -prune -o -type s -print 2>/dev/null \
  | sort | sed 's/^/socket: /'
cat /proc/net/unix | awk '{print $8}' | sort -u | sed 's/^/bound: /'
ls /proc | grep -c '^[0-9]' | sed 's/^/processes: /'
for at in /var/run/docker.sock /run/docker.sock /run/containerd /run/dbus /root /var/lib /etc/shadow; do
  ls $at >/dev/null 2>&1 && echo "sees $at"; done; true
"""


async def test_canaries_are_not_found_from_inside(
    tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTLER_TEST_CANARY", ENVIRONMENT)
    async with open_house(tmp_path, store_url, model__api_key=UPSTREAM) as house:
        canary = house.secret
        neighbour = await house.session()
        await shell(house, neighbour, f"echo {NEIGHBOUR} > /workspace/mine; echo {NEIGHBOUR} > /tmp/mine; sleep 0.1")
        session = await house.session()
        found = (await shell(house, session, SEARCH)).splitlines()
        assert [line for line in found if line.startswith("canary")] == []
        assert int(next(line for line in found if line.startswith("lines: ")).split()[1]) > 50, "it looked"
        sockets = {line.split()[1] for line in found if line.startswith("socket: ")}
        ours = {"/run/hostler/egress.sock", "/run/hostler/model.sock"}
        assert {s for s in sockets if not s.startswith("/tmp/cc-socks/")} <= ours
        assert [line for line in found if line.startswith("sees ")] == []
        bound = [line.split()[1] for line in found if line.startswith("bound: ") and len(line.split()) > 1]
        assert not any(neighbour[-12:] in path or "docker" in path for path in bound)
        assert int(next(line for line in found if line.startswith("processes: ")).split()[1]) < 15
        assert canary not in "\n".join(found)
        # B5: and the server itself wrote the keys down nowhere.
        place = Path(house.settings["state_dir"])
        await house.turn(session, [step("Bye.")])
        await house.stop()
        files = [place, Path(store_url.removeprefix("sqlite:///")).parent]
        for folder in files:
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    data = content_of(path)
                    assert UPSTREAM.encode() not in data, path
                    assert canary.encode() not in data, path
                    assert ENVIRONMENT.encode() not in data, path


async def test_a_neighbour_on_the_host_has_another_user_and_other_sockets(house: House) -> None:
    one, two = await house.session(), await house.session()
    for session in (one, two):
        await shell(house, session, "echo private > /workspace/file; chmod 777 /workspace /workspace/file")
    owners = {os.stat(house.workspace(session)).st_uid for session in (one, two)}
    assert len(owners) == 2 or os.geteuid() != 0
    parent = house.workspace(one).parent
    assert os.stat(parent).st_uid == os.geteuid()
    found = await shell(house, two, f"cat {house.workspace(one)}/file {parent}/workspace/file 2>&1; ls {parent} 2>&1")
    assert "private" not in found
