"""The vertical loop in the agent: its detectors, socket and journal, and what it tells the control plane.

It needs nobody outside of the blanket: incidents wait in the outbox like any event while the control plane is
away. If its journal cannot be written it is begun anew from there, and acknowledges nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from supercloud.agent.guard import Guards
from supercloud.agent.journal import Journal as Outbox
from supercloud.agent.ordered import Ordered
from supercloud.model.errors import Failed, InvalidInput, NotFound, SupercloudError, Unavailable
from supercloud.model.findings import Layer, Object, ObjectKind
from supercloud.model.incidents import Incident
from supercloud.model.names import Id, Name
from supercloud.model.reactions import Command, Reaction
from supercloud.ports.actuator import Actuator
from supercloud.ports.evidence import Memory
from supercloud.ports.loop import (
    AnswerReaction,
    CloseIncident,
    Guard,
    GuardRef,
    LoopPolicy,
    OrderDeed,
    OrderedRef,
)
from supercloud.security import usual
from supercloud.security.detectors import COMPONENTS, GUEST, INTEGRITY, MEMORY, PORT
from supercloud.security.door import Door
from supercloud.security.events import Stand
from supercloud.security.journal import Journal
from supercloud.security.loop import Loop
from supercloud.security.policy import PolicyFile
from supercloud.security.rules import Rules
from supercloud.security.terms import RuleSet
from supercloud.wire.codec import from_json, to_json

T = TypeVar("T")
KIND = "incident"
_AGAIN_S, _LONGEST_AGAIN_S, _READY_S = 1.0, 30.0, 30.0
_RETRY_S = 2.0
#: What starts waits so long for a loop that is being begun anew.
_BEGUN_S = 20.0
#: Of what is told of one incident: below what an event may have (agent.journal).
_TOLD_BYTES = 14 << 10
#: Of the reactions in force those that were decided last, however small it has to be.
_TOLD_LIVE = 12
_POLICY = "policy"
_TELLING = uuid.UUID("9c0a5b0e-6a11-4a36-8f4b-2f0a1c7f3e55")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopHands:
    """`owner`: whose port a device is. `instances`: those that have a QEMU here. `detectors`: by name, how
    each is begun; none: they are elsewhere. `memory`: opens an instance's; `evidence`: where what is
    kept of it goes; None: nothing can be. `yara`: where the detector `memory` looks for its rules."""

    actuator: Actuator
    owner: Callable[[str], Id | None]
    journal: Path
    socket: Path
    instances: Callable[[], Collection[Id]] = tuple
    detectors: Sequence[tuple[Name, Sequence[str]]] = ()
    memory: Callable[[Id], Memory] | None = None
    evidence: Path | None = None
    yara: Path | None = None


class VerticalLoop:
    """ports.loop.LoopAgent, and what runs for it."""

    def __init__(
        self,
        hands: LoopHands,
        outbox: Outbox,
        *,
        blanket: Id,
        cloud: Id,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`ready`: detectors are begun once it returns, or a while later: a blanket that boots on an emulated
        processor has better to do than to start programs that nobody waits for."""
        self._ready = ready
        self._hands = hands
        self._outbox = outbox
        self._blanket = blanket
        self._cloud = cloud
        self._loop: Loop | None = None
        self._begun_now = asyncio.Event()
        self._ordered = Ordered(
            hands.actuator, journal=self._journal, loop=self._there, tell=outbox.note, now=time.time
        )
        self.guards = Guards(
            journal=self._journal,
            loop=self._there,
            begun=self._begun,
            ordered=self._ordered,
            spec=outbox.spec,
            now=time.time,
        )
        self._news = asyncio.Event()
        self._rules_over_memory = asyncio.Event()  # there are some, or were
        self._news.set()

    # ------------------------------------------------------------ ports.loop.LoopAgent

    async def apply(self, request: LoopPolicy) -> None:
        policies, rules = _read(request)
        loop = self._there()
        if await self.policy() == request:
            return  # it would begin its rules' windows anew
        kept = to_json(LoopPolicy, request)
        await self._journal(lambda journal: journal.write(_POLICY, kept))
        self._hand_on(request)
        loop.change(policies, rules)

    async def policy(self) -> LoopPolicy:
        kept = await self._journal(lambda journal: journal.read(_POLICY))
        if kept is None:
            return LoopPolicy(policy=usual.POLICY.model_dump_json(by_alias=True))
        return from_json(LoopPolicy, kept)

    async def close(self, request: CloseIncident) -> None:
        with suppress(NotFound):
            await self._there().close(request.incident, by=request.by, undo=request.undo)

    async def answer(self, request: AnswerReaction) -> None:
        await self._there().answer(request.reaction, yes=request.yes, by=request.by)

    async def order(self, request: OrderDeed) -> None:
        await self._ordered.order(request)

    async def ordered(self, request: OrderedRef) -> bool:
        return await self._ordered.ordered(request)

    async def recall(self, request: OrderedRef) -> None:
        await self._ordered.recall(request)

    async def guard(self, request: GuardRef) -> Guard:
        return await self.guards.give(request)

    async def take_over(self, request: Guard) -> None:
        await self.guards.take_over(request)

    def known(self, command: Command) -> tuple[Id, Any]:
        """About the incident that a reaction is of: its id, and all that is known. Raises: Unavailable."""
        engine = self._there().engine
        reaction = engine.book.get(command.id)
        incident = None if reaction is None else engine.incidents.get(reaction.incident)
        if incident is None:
            raise Unavailable("the incident that it belongs to is closed")
        reactions = [to_json(Reaction, one) for one in engine.book.of_incident(incident.id)]
        return incident.id, {"incident": to_json(Incident, incident), "reactions": reactions}

    def _there(self) -> Loop:
        if self._loop is None:
            raise Unavailable("the loop is being begun anew")
        return self._loop

    async def _begun(self) -> None:
        """Raises: Unavailable (it was not in all the time that it is waited for)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEGUN_S):
                await self._begun_now.wait()
        self._there()

    # ------------------------------------------------------------ at work

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_on())
            group.create_task(self._tell())
            group.create_task(self._ordered.run())
            for name, argv in self._hands.detectors:
                group.create_task(self._detector(name, argv))

    async def _keep_on(self) -> None:
        while True:
            try:
                await self._once()
            except (SupercloudError, OSError) as error:
                _log.error("agent.loop_ended", reason=str(error))
            finally:
                self._loop = None
                self._begun_now.clear()
            await asyncio.sleep(_RETRY_S)

    async def _once(self) -> None:
        told = await self.policy()
        policies, rules = _read(told)
        self._hand_on(told)
        journal = Journal(self._hands.journal)
        try:
            loop = Loop(
                journal=journal,
                policies=policies,
                rules=rules,
                actuator=self._hands.actuator,
                now=time.time,
                within=self._within,
                told=self._news.set,
            )
            server = await Door(loop, self._stand).listen_unix(self._hands.socket)
            self._loop = loop
            self._begun_now.set()
            try:
                await loop.run()
            finally:
                server.close()
        finally:
            journal.close()

    def _hand_on(self, told: LoopPolicy) -> None:
        """Rules over guests' memory, to the detector, which looks for them. Raises: Failed."""
        path = self._hands.yara
        if path is None:
            return
        text = "" if told.rules is None else from_json(RuleSet, json.loads(told.rules)).yara
        try:
            if not text:
                path.unlink(missing_ok=True)
                return
            fresh = path.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_text(text)
            fresh.rename(path)
            self._rules_over_memory.set()
        except OSError as error:
            raise Failed(f"rules cannot be handed on: {error}") from error

    def _within(self, one: Object) -> Object | None:
        return self._machine() if one.kind is ObjectKind.INSTANCE else None

    def _machine(self) -> Object:
        return Object(kind=ObjectKind.MACHINE, id=self._blanket)

    def _stand(self, name: Name, _: object) -> Stand | None:
        """By the socket's mode only this user's processes come here. What an event says of itself makes it
        no wider. Which domain this is, is the control plane's to know: the blanket stands for it."""
        objects = {
            PORT: (Layer.L2, self._of_port),
            COMPONENTS: (Layer.L1, self._of_blanket),
            GUEST: (Layer.L2, self._of_instance),
            MEMORY: (Layer.L2, self._of_instance),
            INTEGRITY: (Layer.L1, self._of_blanket),
        }
        if name not in objects:
            return None
        layer, about = objects[name]
        return Stand(
            detector=name,
            layer=layer,
            domain=self._blanket,
            cloud=self._cloud,
            objects=about,
            # Our own say so of what they checked; what is read in a guest's memory is the guest's word.
            proves=name not in {GUEST, MEMORY},
        )

    def _of_port(self, device: str | None) -> Object | None:
        instance = None if device is None else self._hands.owner(device)
        return None if instance is None else Object(kind=ObjectKind.INSTANCE, id=instance)

    def _of_instance(self, said: str | None) -> Object | None:
        if said is None or said not in self._hands.instances():
            return None
        return Object(kind=ObjectKind.INSTANCE, id=said)

    def _of_blanket(self, said: str | None) -> Object | None:
        return self._machine() if said is None else None

    # ------------------------------------------------------------ telling

    async def _tell(self) -> None:
        """What changed, into the outbox: at least once, and each version once."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                while await self._tell_some():
                    pass
            except SupercloudError as error:
                _log.info("agent.incidents_wait", reason=error.message)
                self._news.set()
            await asyncio.sleep(_RETRY_S)  # what changes often is told as it is then

    async def _tell_some(self) -> bool:
        some = await self._journal(lambda journal: journal.to_tell())
        for incident, reactions in some:
            name = str(uuid.uuid5(_TELLING, f"{incident.id}/{incident.version}"))
            await self._outbox.note(KIND, told(incident, reactions), id=name)
        versions = [(one.id, one.version) for one, _ in some]
        await self._journal(lambda journal: journal.told(versions))
        return bool(some)

    async def _journal(self, work: Callable[[Journal], T]) -> T:
        """On a connection of its own, from its opening to its closing in one thread: who waits for it may be
        cancelled, and what is closed while it works takes the process with it."""

        def whole() -> T:
            journal = Journal(self._hands.journal)
            try:
                return work(journal)
            finally:
                journal.close()

        return await asyncio.to_thread(whole)

    # ------------------------------------------------------------ detectors

    async def _detector(self, name: Name, argv: Sequence[str]) -> None:
        """Begun anew whenever it ends. Its standard input is how it learns that we ended."""
        if self._ready is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_READY_S):
                    await self._ready()
        if name == MEMORY:  # until then it has nothing to do but to take memory of its own
            await self._rules_over_memory.wait()
        wait_s = _AGAIN_S
        while True:
            begun = time.monotonic()
            process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE)
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
            _log.warning("agent.detector_ended", detector=name, status=status)
            wait_s = _AGAIN_S if time.monotonic() - begun > 60 else min(wait_s * 2, _LONGEST_AGAIN_S)
            await asyncio.sleep(wait_s)


def usual_detectors() -> tuple[tuple[Name, Sequence[str]], ...]:
    """Of a blanket: each a process of its own."""
    return tuple(
        (name, (sys.executable, "-m", "supercloud.agent.detectors", name))
        for name in (PORT, COMPONENTS, GUEST, MEMORY, INTEGRITY)
    )


def told(incident: Incident, reactions: Sequence[Reaction]) -> dict[str, Any]:
    """As the control plane is told: small enough for an event, how it began and what was last kept. What has
    ended is left out before what goes along with what it is about, which the control plane keeps."""
    many = len(incident.timeline)
    by_use = sorted(reactions, key=lambda one: one.goes_along)
    live = min(sum(one.goes_along for one in reactions), _TOLD_LIVE)
    while True:
        kept = {one.id for one in by_use[-max(many, live, 4) :]}
        said = {
            "incident": to_json(Incident, incident.shortened(many)),
            "reactions": [to_json(Reaction, one) for one in reactions if one.id in kept],
        }
        if many <= 2 or len(json.dumps(said)) < _TOLD_BYTES:
            return said
        many = many * 3 // 4


def _read(said: LoopPolicy) -> tuple[PolicyFile, Rules]:
    """
    Raises:
        InvalidInput: it is no policy, or its rules cannot be used.
    """
    try:
        policies = PolicyFile.model_validate_json(said.policy)
    except ValidationError as error:
        raise InvalidInput(f"that is no policy: {error.errors()[0]['msg']}") from error
    if said.rules is None:
        return policies, Rules(usual.RULES)
    try:
        return policies, Rules(from_json(RuleSet, json.loads(said.rules)))
    except ValueError as error:
        raise InvalidInput("those are no rules: no JSON") from error
