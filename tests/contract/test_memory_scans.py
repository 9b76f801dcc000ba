"""Guests' memory by the owner's YARA rules: a real QEMU's, by a process that can do nothing else."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from still_qemu import MARK, qemu

from supercloud.agent import scans
from supercloud.agent.scanning import Turns
from supercloud.agent.scans import Rounds, scan
from supercloud.blanket.guest_memory import open_memory
from supercloud.model.errors import Failed
from supercloud.model.names import GIB, MIB

pytestmark = pytest.mark.contract
HEX = " ".join(f"{byte:02X}" for byte in MARK.to_bytes(8, "little"))
RULES = f"rule marked {{ strings: $m = {{ {HEX} }} condition: $m }}"


class Heard:
    """A teller."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def tell(self, events: list[dict[str, Any]]) -> None:
        self.events += events

    @property
    def rules(self) -> list[str]:
        return [one["finding_info"]["analytic"]["uid"] for one in self.events]


@pytest.mark.parametrize(("size", "where"), [(64 * MIB, 0x10_0000), (3 * GIB, 4 * GIB + MIB)])
async def test_what_a_guest_has_in_its_memory_is_found_where_it_is(
    tmp_path: Path, size: int, where: int
) -> None:
    with qemu(tmp_path, size, at=where) as made:
        memory = open_memory(made.instance, tmp_path)
        (found,) = await scan(memory, RULES)
        assert not await scan(memory, 'rule other { strings: $m = "not there at all" condition: $m }')
        memory.close()
    assert (found.rule, found.many, hex(found.places[0].address)) == ("marked", 1, hex(where))


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ("rule {", "YARA: "),
        ('include "/etc/passwd"', "YARA: "),
        ("rule slow { condition: for all i in (1..10000000000) : (uint8(i % 100) < 300) }", "time"),
    ],
)
async def test_hostile_rules_end_and_the_next_scan_works(tmp_path: Path, rules: str, why: str) -> None:
    with qemu(tmp_path, 64 * MIB, at=0x10_0000) as made:
        memory = open_memory(made.instance, tmp_path)
        with pytest.raises(Failed, match=why):
            await scan(memory, rules, seconds=3)
        assert await scan(memory, RULES)
        memory.close()


@pytest.mark.parametrize(
    "does",
    [
        "import sys; sys.exit(1)",
        "print('rubbish')",
        'print(\'{"found": [{"rule": "a b", "severity": "high", "many": 1}]}\')',
        "print('{\"found\": ' + '[' * 3000000)",
        "import time; time.sleep(600)",
    ],
)
async def test_whatever_who_scans_does_the_detector_goes_on(tmp_path: Path, does: str) -> None:
    with qemu(tmp_path, 64 * MIB) as made:
        memory = open_memory(made.instance, tmp_path)
        with pytest.raises(Failed):
            await scan(memory, RULES, seconds=-4, argv=("-c", does))
        memory.close()


async def test_who_scans_has_no_right_but_to_read_what_it_was_given(tmp_path: Path) -> None:
    looks = (
        "import os, sys, json; from supercloud.agent.looker import confine; confine();"
        "status = open('/proc/self/status').read() if os.path.exists('/proc') else 'nothing';"
        "print(json.dumps({'failed': status[:150] + str(os.getuid())}))"
    )
    with qemu(tmp_path, 64 * MIB) as made:
        memory = open_memory(made.instance, tmp_path)
        with pytest.raises(Failed) as said:
            await scan(memory, RULES, argv=("-c", looks))
        memory.close()
    if os.geteuid() == 0:
        assert said.value.message == "nothing64900"


async def test_rounds_go_by_the_rules_there_are_and_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def counted(memory: object, rules: str, **more: Any) -> Any:
        asked.append(rules)
        return await scan(memory, rules, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(scans, "scan", counted)
    now, heard, rules = [100.0], Heard(), tmp_path / "rules.yar"
    with qemu(tmp_path, 64 * MIB, at=0x10_0000):
        rounds = Rounds(heard, rules, tmp_path, clock=lambda: now[0])  # type: ignore[arg-type]
        assert await rounds.once() == 0, "there are no rules"
        rules.write_text(RULES)
        assert [await rounds.once(), await rounds.once()] == [1, 0]
        assert heard.rules == ["yara:marked"] and MARK.to_bytes(8, "little").hex() not in json.dumps(
            heard.events
        )
        now[0] += scans.EVERY_S
        assert await rounds.once() == 1
        assert heard.rules == ["yara:marked"], "an hour has to pass before it is told again"
        rules.write_text("rule {")
        assert await rounds.once() == 1, "other rules are looked at at once"
        assert heard.rules == ["yara:marked", "cannot-scan"]
        rules.unlink()
        now[0] += scans.EVERY_S
        assert await rounds.once() == 0
    assert asked == [RULES, RULES, "rule {"]


async def test_who_is_asked_for_is_scanned_before_its_turn_and_what_matches_is_told_again(
    tmp_path: Path,
) -> None:
    now, heard, rules = [100.0], Heard(), tmp_path / "rules.yar"
    turns = Turns(rules)
    with qemu(tmp_path, 64 * MIB, at=0x10_0000) as made:
        rounds = Rounds(heard, rules, tmp_path, clock=lambda: now[0])  # type: ignore[arg-type]
        rules.write_text(RULES)
        assert [await rounds.once(), await rounds.once()] == [1, 0]
        turns.ask(made.instance, "one", person=False)
        assert [await rounds.once(), await rounds.once()] == [1, 0], "once"
        assert turns.end(made.instance, "one") == (1, "") and turns.end(made.instance, "other") is None
        assert heard.rules == ["yara:marked"] * 2, "though no hour has passed"
        turns.drop(made.instance)
        rules.write_text("rule {")
        turns.ask(made.instance, "two", person=True)
        assert await rounds.once() == 1
        matched, why = turns.end(made.instance, "two") or (9, "")
        assert matched == 0 and why.startswith("YARA: ")


async def test_it_ends_with_who_began_it(tmp_path: Path) -> None:
    with qemu(tmp_path, 64 * MIB) as made:
        memory = open_memory(made.instance, tmp_path)
        slow = "rule slow { condition: for all i in (1..10000000000) : (uint8(i % 100) < 300) }"
        task = asyncio.create_task(scan(memory, slow))
        async with asyncio.timeout(60):
            while not (begun := _scanners()):  # noqa: ASYNC110 - it does not say
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not begun & _scanners()
        memory.close()


def _scanners() -> set[int]:
    found = set[int]()
    for process in Path("/proc").iterdir():
        try:
            ours = b"supercloud.agent.scanner" in (process / "cmdline").read_bytes()
            if ours and f"PPid:\t{os.getpid()}\n" in (process / "status").read_text():
                found.add(int(process.name))
        except OSError:
            continue
    return found
