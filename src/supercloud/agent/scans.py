"""Scans the memory of this blanket's instances by the owner's YARA rules, each in turn and seldom, by a
process without rights, and tells what that found."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final, Protocol

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from supercloud.agent.scanning import Turns
from supercloud.agent.teller import Teller
from supercloud.blanket.guest_memory import PID_FILES, open_memory, running
from supercloud.blanket.places import RECORDING
from supercloud.model.errors import Failed, Unavailable
from supercloud.model.names import Id
from supercloud.ports.evidence import Memory
from supercloud.security.detectors import MEMORY
from supercloud.security.detectors.memory import Scans
from supercloud.security.memoryscan import RULES, Match
from supercloud.security.recording import recorded

SCANNER: Final = ("-m", "supercloud.agent.scanner")
#: From the end of one scan of a guest to the next (seconds): so long at least. Longer, up to a bound, where
#: scanning would take more than this part of the time.
EVERY_S, _LONGEST_S, _PART = 600.0, 6 * 3600.0, 0.05
#: What one scan may take, of the processor and in all (seconds).
SCAN_S: Final = 900
#: How often it is looked whether rules were set, and which guests there are (seconds).
_LOOK_S: Final = 5.0
_ANSWER_BYTES: Final = 1 << 20
_log = structlog.get_logger(__name__)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    found: tuple[Match, ...] | None = None
    failed: str | None = None


class Opened(Memory, Protocol):
    key: str


async def scan(
    memory: Memory, rules: str, *, seconds: float = SCAN_S, argv: tuple[str, ...] = SCANNER
) -> tuple[Match, ...]:
    """
    Raises:
        Failed: the rules cannot be used, take too long, or whoever scanned ended or said what makes no sense.
    """
    question = {"rules": rules, "spans": [asdict(one) for one in memory.parts], "seconds": seconds}
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "19", sys.executable, *argv, str(memory.descriptor)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=(memory.descriptor,),
        limit=_ANSWER_BYTES,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - they are pipes
    try:
        async with asyncio.timeout(2 * seconds + 10):
            process.stdin.write(json.dumps(question).encode() + b"\n")
            with suppress(ConnectionError):
                await process.stdin.drain()
            said = await process.stdout.readline()
        answer = _Answer.model_validate_json(said)
    except (TimeoutError, ValueError, ValidationError) as error:
        raise Failed(f"whoever scanned is gone: {type(error).__name__}") from error
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if answer.found is None or len(answer.found) > RULES:
        raise Failed(answer.failed or "nothing was said")
    return answer.found


class Rounds:
    """`rules`: the file with the owner's rules, which is not there where there are none."""

    def __init__(
        self, teller: Teller, rules: Path, pid_files: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._teller = teller
        self._rules = rules
        self._pid_files = pid_files
        self._clock = clock
        self._watch = recorded(Scans(secrets.token_hex(8)), MEMORY, RECORDING)
        self._turns = Turns(rules)
        self._text = ""
        self._next: dict[str, float] = {}  # by the memory's key: when it is its turn

    async def once(self) -> int:
        """How many were scanned."""
        text = await asyncio.to_thread(self._read)
        if text != self._text:
            self._text = text
            self._next.clear()
            self._watch.anew()
        if not text:
            return 0
        instances, scanned, keys = running(self._pid_files), 0, set[str]()
        self._watch.there(instances)
        for instance in sorted(instances, key=lambda one: self._turns.waits(one) is None):
            try:
                memory = open_memory(instance, self._pid_files)
            except Unavailable as error:  # the detector of guests tells that
                if (asked := self._turns.waits(instance)) is not None:
                    self._turns.ends(instance, asked, why=error.message)
                continue
            try:
                keys.add(memory.key)
                asked = self._turns.waits(instance)
                if asked is not None or self._clock() >= self._next.get(memory.key, 0.0):
                    await self._scan(instance, memory, asked)
                    scanned += 1
            finally:
                memory.close()
        self._next = {key: at for key, at in self._next.items() if key in keys}
        return scanned

    async def _scan(self, instance: Id, memory: Opened, asked: Id | None) -> None:
        """`asked`: because of what, if it is not simply its turn: then whatever matches is told, though it
        was a moment ago."""
        begun, matched, why = self._clock(), 0, ""
        if asked is not None:
            self._watch.anew(instance)
        try:
            found = await scan(memory, self._text)
            matched = len(found)
            self._teller.tell(self._watch.found(instance, found, time.time()))
        except Failed as error:
            why = error.message
            _log.warning("scans.failed", instance=instance, reason=why)
            self._teller.tell(self._watch.cannot(instance, why, time.time()))
        if asked is not None:
            self._turns.ends(instance, asked, matched=matched, why=why)
        took = self._clock() - begun
        self._next[memory.key] = self._clock() + min(max(EVERY_S, took / _PART), _LONGEST_S)

    def _read(self) -> str:
        try:
            return self._rules.read_text()
        except FileNotFoundError:
            return ""


async def watch_memory(teller: Teller, rules: Path, pid_files: Path = PID_FILES) -> None:
    """Until cancelled."""
    rounds = Rounds(teller, rules, pid_files)
    while True:
        await rounds.once()
        await asyncio.sleep(_LOOK_S)  # a guest that begins has no event here
