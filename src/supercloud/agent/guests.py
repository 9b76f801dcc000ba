"""Looks at every instance of this blanket in turn, by a process without rights, and tells what that saw."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from supercloud.agent.looker import LINE_BYTES
from supercloud.agent.teller import Teller
from supercloud.blanket.guest_memory import GuestMemory, open_memory, running
from supercloud.blanket.places import RECORDING
from supercloud.model.errors import Failed, Unavailable
from supercloud.model.names import Id
from supercloud.security.detectors import GUEST
from supercloud.security.detectors.guests import Guests
from supercloud.security.detectors.told import Event
from supercloud.security.introspection.look import Seen
from supercloud.security.recording import recorded

#: From the end of one look at all guests to the next (seconds): so long at least. Longer, up to a bound,
#: where looking would take more than this part of the time, as it does in an emulated blanket.
EVERY_S, _LONGEST_S, _PART = 10.0, 600.0, 0.02
#: A look may take so much of a processor, and one that has none for as long hangs (seconds). A first one is
#: a minute or two in an emulated blanket, for which it has to wait, however long, while guests are busy: that
#: says nothing about the one that is looked at. What it may take is bounded where it is done as well
#: (security.introspection.memory).
LOOK_S: Final = 900.0
_RAN_S: Final = 0.001
#: A guest at which looking failed is spared for so long, and twice as long each time that it fails again
#: (seconds): what begins anew each time has to do all over what takes longest.
_SPARED_S, _SPARED_MOST_S = 60.0, 3600.0
#: What any guest that runs does from one round to the next, and one that does not never does.
_EXECUTED_NS: Final = 1_000_000
LOOKER: Final = ("-m", "supercloud.agent.looker")
#: Guests come first, from the looker's first instruction on: to begin, it reads libraries for seconds.
_NICE: Final = ("nice", "-n", "10")
_log = structlog.get_logger(__name__)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    seen: Seen | None = None
    cannot: str | None = None
    failed: str | None = None


class Eyes:
    """The process that looks, begun when it is needed and anew when it fails. Not for two looks at once."""

    def __init__(self, *, look_s: float = LOOK_S, argv: tuple[str, ...] = LOOKER) -> None:
        self._look_s = look_s
        self._argv = argv
        self._process: asyncio.subprocess.Process | None = None
        self._line: socket.socket | None = None
        self._rest = b""

    async def look(self, memory: GuestMemory, keep: Iterable[str]) -> Seen:
        """`keep`: keys of guests that are there; of others nothing is kept.

        Raises:
            Unavailable: it cannot be looked at.
            Failed: whoever looked ended, took too long, or said what makes no sense, and is gone; or it met
                what it cannot make sense of.
        """
        try:
            answer = await self._in_time(memory, keep)
            found = _Answer.model_validate_json(answer)
        except (OSError, TimeoutError, ValidationError) as error:
            await self.close()
            raise Failed(f"whoever looked is gone: {type(error).__name__}") from error
        except BaseException:
            await self.close()
            raise
        if found.failed is not None:
            raise Failed(found.failed)
        if found.seen is None:
            raise Unavailable(found.cannot or "nothing was said")
        return found.seen

    async def _in_time(self, memory: GuestMemory, keep: Iterable[str]) -> bytes:
        """Raises: TimeoutError, and as `_ask`."""
        began = ran = self._ran_s()
        asked = asyncio.create_task(self._ask(memory, keep))
        try:
            while not (await asyncio.wait({asked}, timeout=self._look_s))[0]:
                before, ran = ran, self._ran_s()
                if ran - before < _RAN_S or ran - began >= self._look_s:
                    raise TimeoutError
            return await asked
        finally:
            asked.cancel()

    def _ran_s(self) -> float:
        """For how long it has had a processor; 0: there is none."""
        if self._process is None:
            return 0.0
        try:
            return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9
        except (OSError, IndexError):
            return 0.0

    async def _ask(self, memory: GuestMemory, keep: Iterable[str]) -> bytes:
        line = self._line or await self._begun()
        wanted: dict[str, Any] = {
            "key": memory.key,
            "keep": [memory.key, *keep],
            "spans": [asdict(part) for part in memory.parts],
        }
        socket.send_fds(line, [json.dumps(wanted).encode() + b"\n"], [memory.descriptor])
        while b"\n" not in self._rest:
            data = await asyncio.get_running_loop().sock_recv(line, 64 << 10)
            self._rest += data
            if not data or len(self._rest) > LINE_BYTES:
                raise OSError("it ended, or said too much")
        answer, _, self._rest = self._rest.partition(b"\n")
        return answer

    async def _begun(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *_NICE, sys.executable, *self._argv, stdin=theirs.fileno()
            )
        ours.setblocking(False)
        self._line, self._rest = ours, b""
        return ours

    async def close(self) -> None:
        process, self._process = self._process, None
        line, self._line = self._line, None
        if line is not None:
            line.close()
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def watch_guests(teller: Teller, pid_files: Path, *, every_s: float = EVERY_S) -> None:
    """Until cancelled."""
    eyes = Eyes()
    rounds = Rounds(eyes, teller, pid_files)
    try:
        while True:
            began = time.monotonic()
            await rounds.once()
            long_s = min((time.monotonic() - began) / _PART, _LONGEST_S)
            until = time.monotonic() + max(every_s, long_s)
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(every_s, left))
                # What is done to a guest before its first look is taken for its own: that is not waited for.
                await rounds.once(first_looks=True)
    finally:
        await eyes.close()


class Rounds:
    """From one instance to the next.

    One whose processors have not run since the round before is left alone: its memory may be on its way here
    still, part of it of now and part of then, and nothing in that agrees.
    """

    def __init__(
        self, eyes: Eyes, teller: Teller, pid_files: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._eyes = eyes
        self._teller = teller
        self._pid_files = pid_files
        self._clock = clock
        self._spared: dict[str, tuple[float, float]] = {}  # by the memory's key: until when, and for how long
        self._watch = recorded(Guests(secrets.token_hex(8)), GUEST, RECORDING)
        self._executed: dict[str, int] = {}  # by the memory's key
        self._seen: set[str] = set()  # the keys of memories
        self._in_vain: dict[str, tuple[float, float]] = {}  # first looks, as `_spared`

    async def once(self, *, first_looks: bool = False) -> int:
        """How many were looked at: of all, or of those that were never seen yet."""
        looked = 0
        instances = running(self._pid_files)
        self._watch.there(instances)
        memories: dict[Id, GuestMemory] = {}
        try:
            for instance in instances:
                try:
                    memories[instance] = open_memory(instance, self._pid_files)
                except Unavailable as error:
                    self._teller.tell(self._watch.cannot(instance, error.message, time.time()))
            before, self._executed = self._executed, {one.key: one.executed_ns() for one in memories.values()}
            self._forget(self._executed.keys())
            for instance, memory in memories.items():
                then = before.get(memory.key)
                runs = then is not None and self._executed[memory.key] - then >= _EXECUTED_NS
                if runs and self._is_due(memory.key, first_looks):
                    self._teller.tell(await self._look(instance, memory))
                    looked += 1
        finally:
            for memory in memories.values():
                memory.close()
        return looked

    def _forget(self, there: Collection[str]) -> None:
        """All but those."""
        for table in (self._spared, self._in_vain):
            for key in table.keys() - set(there):
                del table[key]
        self._seen.intersection_update(there)

    def _is_due(self, key: str, first_looks: bool) -> bool:
        tables = (self._spared, self._in_vain) if first_looks else (self._spared,)
        spared_until = max(table.get(key, (0.0, 0.0))[0] for table in tables)
        return self._clock() >= spared_until and not (first_looks and key in self._seen)

    def _spare(self, key: str, table: dict[str, tuple[float, float]]) -> float:
        """Twice as long as the time before: seconds."""
        _, before = table.get(key, (0.0, _SPARED_S / 2))
        spared_s = min(2 * before, _SPARED_MOST_S)
        table[key] = self._clock() + spared_s, spared_s
        return spared_s

    async def _look(self, instance: Id, memory: GuestMemory) -> list[Event]:
        try:
            seen = await self._eyes.look(memory, self._executed)
        except Unavailable as error:
            self._spare(memory.key, self._in_vain)  # it has no kernel yet, or never will
            return self._watch.cannot(instance, error.message, time.time())
        except Failed as error:
            spared_s = self._spare(memory.key, self._spared)
            _log.warning(
                "guests.look_failed", instance=instance, reason=error.message, next_in_s=round(spared_s)
            )
            return self._watch.failed(instance, error.message, time.time())
        self._spared.pop(memory.key, None)
        self._seen.add(memory.key)
        return self._watch.seen(instance, seen, time.time())
