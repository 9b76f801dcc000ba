"""Evidence of this blanket's instances: taken once for each command, sealed to the owner, kept until removed.

A file counts from the moment at which it has its name, which it is given once it is whole and on the disk.
What a killed agent had begun is swept away. Nothing is tried again by itself: what a policy does after it
may have changed what there is to copy.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from supercloud.agent.notes import Notes
from supercloud.agent.sending import Sending
from supercloud.agent.streams import StreamDialer
from supercloud.agent.taker import parts_of, size_of, written
from supercloud.model.errors import Conflict, InvalidInput, NotFound, Refused, SupercloudError
from supercloud.model.names import MIB, Id
from supercloud.model.reactions import Command, Deed
from supercloud.ports.agent import RunState
from supercloud.ports.evidence import EvidenceRef, EvidenceReport, Memory, SendEvidence
from supercloud.trust.evidence import header_of, trailer, trailer_of
from supercloud.trust.keys import IdentityKey

#: Of a blanket, and of one instance in it: who does something evil again and again pushes out nobody's.
MOST, MOST_OF_ONE = 16, 4
TAKER: Final = ("-m", "supercloud.agent.taker")
#: Of what goes with the memory: what was known, headers, and a tag for each megabyte, generously.
_BESIDES_BYTES: Final = 8 * MIB
_ANSWER_BYTES: Final = 4096
_SUFFIX, _PART = ".evidence", ".part"
_ALIVE = frozenset({RunState.RUNNING, RunState.PAUSED})
_log = structlog.get_logger(__name__)


class Seeing(Protocol):
    """Of ports.hypervisor.Hypervisor, what this needs."""

    async def state(self, instance: Id) -> RunState: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceHands:
    """`memory`: opens an instance's. Raises: Unavailable. `known`: what goes with it; the incident's id and
    what was known about that. `owner_key`: of the owner; None: this blanket was certified without one."""

    hypervisor: Seeing
    memory: Callable[[Id], Memory]
    known: Callable[[Command], tuple[Id, Any]]
    owner_key: Callable[[], str | None]
    identity: IdentityKey
    blanket: Id
    cloud: Id


class Evidence:
    """ports.actuator.Actuator of what is kept, and ports.evidence.EvidenceAgent."""

    takes = frozenset({Deed.KEEP})

    def __init__(
        self,
        hands: EvidenceHands,
        folder: Path,
        dialer: StreamDialer,
        *,
        now: Callable[[], float] = time.time,
        argv: tuple[str, ...] = TAKER,
    ) -> None:
        self._hands = hands
        self._folder = folder
        self._notes = Notes(folder / "done")
        self._digests = Notes(folder / "digests")  # what was signed: too long to be worked out each time
        self._sending = Sending(dialer)
        self._now = now
        self._argv = argv
        self._jobs: dict[Id, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()  # one reads and writes as fast as the machine can
        for left in folder.glob(f"*{_PART}"):
            left.unlink(missing_ok=True)

    # ------------------------------------------------------------ ports.actuator.Actuator

    async def do(self, command: Command) -> None:
        instance = command.about.id
        by = self._notes.read(instance).get("command")
        if by not in {None, command.id}:
            raise Conflict(f"evidence of instance {instance} was kept by another reaction")
        if not self._path(command.id).exists():
            job = self._jobs.get(command.id)
            if job is None:
                job = self._jobs[command.id] = asyncio.create_task(self._take(command))
                job.add_done_callback(lambda _: self._jobs.pop(command.id, None))
            await asyncio.shield(job)
        self._notes.write(instance, command=command.id)

    async def look(self, command: Command) -> bool:
        by = self._notes.read(command.about.id).get("command")
        return by == command.id and self._path(command.id).exists()

    async def undo(self, command: Command) -> None:
        """It may be kept again. What was kept stays, until its owner removes it."""
        if self._notes.read(command.about.id).get("command") == command.id:
            self._notes.drop(command.about.id)

    # ------------------------------------------------------------ ports.evidence.EvidenceAgent

    async def list(self) -> list[EvidenceReport]:
        return await asyncio.to_thread(lambda: list(self._reports()))

    async def send(self, request: SendEvidence) -> None:
        what = f"evidence {request.evidence}"
        await self._sending.send(request.stream, self._path(request.evidence), request.offset, what=what)

    async def remove(self, request: EvidenceRef) -> None:
        self._path(request.evidence).unlink(missing_ok=True)
        self._digests.drop(request.evidence)

    async def close(self) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await self._sending.close()

    def _reports(self) -> Iterator[EvidenceReport]:
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                with path.open("rb") as file:
                    of, end = header_of(file), trailer_of(file)
                    size = os.fstat(file.fileno()).st_size
            except FileNotFoundError:
                continue  # removed meanwhile
            except (OSError, InvalidInput) as error:
                _log.error("agent.evidence_unreadable", file=path.name, reason=str(error))
                continue
            yield EvidenceReport(
                evidence=of.evidence,
                incident=of.incident,
                instance=of.instance,
                at=of.at,
                size_bytes=size,
                memory_bytes=of.memory_bytes,
                whole=end.whole,
                digest=self._digest(of.evidence),
            )

    def _digest(self, evidence: Id) -> str | None:
        said = self._digests.read(evidence).get("digest")
        return None if said is None else str(said)

    # ------------------------------------------------------------ taking

    async def _take(self, command: Command) -> None:
        """
        Raises:
            NotFound: the instance has no process here.
            Refused: all else. Whoever orders it does not try again.
        """
        async with self._turn:
            instance = command.about.id
            state = await self._hands.hypervisor.state(instance)
            if state not in _ALIVE:
                raise NotFound(f"instance {instance} is {state} here")
            try:
                memory = self._hands.memory(instance)
                try:
                    await self._taken(command, memory, paused=state is RunState.PAUSED)
                finally:
                    memory.close()
            except (SupercloudError, OSError, ValueError, TimeoutError) as error:
                _log.warning("agent.evidence_not_kept", instance=instance, reason=str(error))
                raise Refused(f"no evidence was kept: {error}") from error

    async def _taken(self, command: Command, memory: Memory, *, paused: bool) -> None:
        most = size_of(parts_of(memory.parts, written(memory.descriptor))) + _BESIDES_BYTES
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._check_room(command.about.id, most)
        part, ran = self._path(command.id).with_suffix(_PART), memory.executed_ns()
        part.unlink(missing_ok=True)
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            answer = await self._asked(self._question(command, memory, most), memory.descriptor, file)
            state = await self._hands.hypervisor.state(command.about.id)
            stood = paused and state is RunState.PAUSED and memory.executed_ns() == ran
            end = trailer(
                str(answer["digest"]),
                whole=stood,
                blanket=self._hands.blanket,
                evidence=command.id,
                identity=self._hands.identity,
            )
            self._digests.write(command.id, digest=str(answer["digest"]))
            await asyncio.to_thread(self._finish, file, part, end)
        finally:
            os.close(file)
            part.unlink(missing_ok=True)

    async def _check_room(self, instance: Id, most: int) -> None:
        """
        Raises:
            Refused: so much is kept already, or there is no room for it.
        """
        kept = await self.list()
        of_it = sum(one.instance == instance for one in kept)
        if len(kept) >= MOST or of_it >= MOST_OF_ONE:
            raise Refused(f"{len(kept)} are kept here, {of_it} of it: that is all that can be")
        free = shutil.disk_usage(self._folder).free
        if most > free // 2:
            raise Refused(f"it is {most // MIB} MiB, more than half of the room that is left")

    def _question(self, command: Command, memory: Memory, most: int) -> dict[str, Any]:
        """
        Raises:
            Refused: it can be sealed to nobody.
        """
        owner_key = self._hands.owner_key()
        if owner_key is None:
            raise Refused("this blanket knows no key of its owner's until its certificate is renewed")
        incident, known = self._hands.known(command)
        return {
            "evidence": command.id,
            "incident": incident,
            "instance": command.about.id,
            "blanket": self._hands.blanket,
            "cloud": self._hands.cloud,
            "at": self._now(),
            "owner_key": owner_key,
            "known": known,
            "spans": [asdict(one) for one in memory.parts],
            "most_bytes": most,
        }

    async def _asked(self, question: dict[str, Any], memory: int, file: int) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", "10", sys.executable, *self._argv, str(memory), str(file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(memory, file),
        )
        try:
            said, _ = await process.communicate(json.dumps(question).encode() + b"\n")
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        answer = json.loads(said[:_ANSWER_BYTES] or b"{}")
        if "digest" not in answer:
            raise Refused(str(answer.get("failed", f"who copied it ended with {process.returncode}")))
        return dict(answer)

    def _finish(self, file: int, part: Path, end: bytes) -> None:
        """Whole, and on the disk, before it has its name."""
        os.write(file, end)
        os.fsync(file)
        part.rename(part.with_suffix(_SUFFIX))
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _path(self, evidence: Id) -> Path:
        return self._folder / f"{evidence}{_SUFFIX}"
