"""The loop at work: events in, commits in groups, reactions carried out, proofs awaited.

The order is what makes it safe to kill: what was found and what is intended is durable before anything is
acknowledged or done (`journal.py`), and what was intended is looked up before it is done again (`engine.py`).
What an action came to is written with the next group: until then the world itself knows it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from supercloud.model.errors import Failed, NotFound, Refused, SupercloudError, Unavailable
from supercloud.model.findings import Finding, Object
from supercloud.model.incidents import Incident
from supercloud.model.names import Id
from supercloud.model.reactions import (
    LASTING,
    ONE_AFTER_ANOTHER,
    Aspect,
    Command,
    Deed,
    Reaction,
    ReactionState,
)
from supercloud.ports.actuator import Actuator
from supercloud.security.engine import Action, Doing, Engine
from supercloud.security.events import Event, Stand, Taken, take
from supercloud.security.journal import Batch, Journal
from supercloud.security.policy import PolicyFile
from supercloud.security.rules import Rules

#: Events that wait, and that one commit takes.
WAITING, GROUP = 4096, 512
#: An actuator that says nothing for so long has not done it, as far as anybody knows.
ACT_S = 15.0
#: What takes its time: a copy and a scan of memory are as long as the memory is large.
_LONGER_S = {Deed.KEEP: 3600.0, Deed.SCAN: 3600.0}
#: When what actions came to is written at the latest, if nothing else is.
LATER_S = 0.25
_HOUR_S = 3600.0
#: Of what was taken over from another blanket.
_IN_PLACE = frozenset({ReactionState.ASKED, ReactionState.DONE, ReactionState.VERIFIED})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An event that is taken: durable, if it was a finding or made one."""

    findings: tuple[Id, ...] = ()
    incidents: tuple[Id, ...] = ()
    #: Set once everything that was decided about it at once has been done, or has failed: how many were done.
    done: asyncio.Future[int] | None = None


@dataclass(slots=True)
class _Waiting:
    taken: Taken
    now: float
    answer: asyncio.Future[Receipt]
    incidents: list[Id] = field(default_factory=list)
    findings: list[Id] = field(default_factory=list)
    doing: list[Action] = field(default_factory=list)


#: Who waits, and for what still.
_Awaiting = tuple[asyncio.Future[int], list[tuple[Id, Doing]]]


@dataclass(slots=True)
class _Turn:
    """What is about one thing goes one after the other, in the order in which it was decided."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


def _nowhere(_: Object) -> Object | None:
    return None


class Loop:
    """`now`: seconds since the epoch. `told` is called after each commit that changed an incident."""

    def __init__(
        self,
        *,
        journal: Journal,
        policies: PolicyFile,
        rules: Rules | None,
        actuator: Actuator,
        now: Callable[[], float],
        within: Callable[[Object], Object | None] = _nowhere,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Goes on from what the journal has.

        Raises:
            Failed: it is unreadable.
        """
        self._journal = journal
        self._rules = rules
        self._actuator = actuator
        self._now = now
        self._told = told
        self.engine = Engine(
            policies,
            takes=actuator.takes,
            within=within,
            incidents=journal.open_incidents(),
            reactions=journal.live_reactions(now() - _HOUR_S),
        )
        self._waiting: deque[_Waiting] = deque()
        self._room = asyncio.Semaphore(WAITING)
        self._doing_now: set[tuple[Id, Doing]] = set()
        self._flushing: list[asyncio.Future[None]] = []
        self._thread = ThreadPoolExecutor(1, "loop-journal")
        self._after_commit: list[Action] = self.engine.recover()
        self._wake = asyncio.Event()
        self._acting: set[asyncio.Task[None]] = set()
        self._written_later: asyncio.TimerHandle | None = None
        self._turns: dict[tuple[str, Aspect], _Turn] = {}
        self._awaited: dict[tuple[Id, Doing], list[_Awaiting]] = {}
        self.taken = self.refused = 0

    # ------------------------------------------------------------ in

    async def submit(self, raw: Any, stand: Stand) -> Receipt:
        """Answered once it is durable. Waits where too many wait already, so that whoever floods is slowed.

        Raises:
            InvalidInput: it is no event that is taken; Unavailable: the loop has ended.
        """
        now = self._now()
        try:
            taken = take(raw, stand, now=now, sources=() if self._rules is None else self._rules.sources)
        except SupercloudError:
            self.refused += 1
            raise
        one = _Waiting(taken, now, asyncio.get_running_loop().create_future())
        await self._room.acquire()
        self._waiting.append(one)
        self._wake.set()
        return await one.answer

    # ------------------------------------------------------------ by a person

    async def close(self, incident: Id, *, by: str, undo: bool) -> None:
        """On return that is durable.

        Raises:
            NotFound; Unavailable: the loop ended meanwhile.
        """
        await self._decided(self.engine.close(incident, by=by, undo=undo, now=self._now()))

    async def answer(self, reaction: Id, *, yes: bool, by: str) -> None:
        """On return that is durable.

        Raises:
            NotFound, Conflict; Unavailable: the loop ended meanwhile.
        """
        await self._decided(self.engine.answer(reaction, yes=yes, by=by, now=self._now()))

    # ------------------------------------------------------------ an instance that moves

    async def adopt(self, incident: Incident, reactions: Sequence[Reaction]) -> None:
        """On return all of it is durable, and in force.

        Raises:
            Failed: something in it could not be done; it is tried again as whatever else fails.
        """
        await self._tried(self.engine.adopt(incident, reactions, self._now()))
        for given in reactions:
            one = self.engine.book[given.id]
            if one.state not in _IN_PLACE:
                raise Failed(f"{one.command.deed} is {one.state} here: {one.why}")

    async def again(self, name: Id) -> None:
        """On return what is in force about an object has its effect, though a reboot had undone that.

        Raises:
            Failed, NotFound, Unavailable: it has not.
        """
        for one in self.engine.book.about(name):
            command = one.command
            over = command.until is not None and command.until <= self._now() + 1
            if one.has_effect and command.about.id == name and command.deed in LASTING and not over:
                async with self._in_turn(command):
                    await self._actuator.do(command)

    async def left(self, name: Id) -> None:
        """On return what was in force about an object that is elsewhere now is not any more, here."""
        await self._tried(self.engine.left(name, self._now()))

    async def _tried(self, actions: list[Action]) -> None:
        """Once what was decided is durable, and each of these was tried.

        Raises:
            Unavailable: the loop ended meanwhile.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        left = [(one.reaction.id, one.doing) for one in actions]
        for what in tuple(left):
            self._doing_now.add(what)
            self._awaited.setdefault(what, []).append((done, left))
        await self._decided(actions)
        if actions:
            await done

    async def _decided(self, actions: list[Action]) -> None:
        """Once it is durable, also where nothing is to be done; what is, follows then.

        Raises:
            Unavailable: the loop ended meanwhile.
        """
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushing.append(durable)
        self._after_commit += actions
        self._wake.set()
        await durable

    def change(self, policies: PolicyFile, rules: Rules | None) -> None:
        """From the next event on. What is in force stays so, by the policy that decided it."""
        self.engine.policies = policies
        self._rules = rules

    # ------------------------------------------------------------ at work

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            Exhausted, Unavailable: the journal cannot be written. Nothing was acknowledged that is not in it,
            and whoever starts another one goes on from there.
        """
        try:
            await self._commit([])
            while True:
                await self._turn()
        finally:
            if self._written_later is not None:
                self._written_later.cancel()
            for task in tuple(self._acting):
                task.cancel()
            await asyncio.gather(*self._acting, return_exceptions=True)
            self._thread.shutdown()
            self._refuse_all()

    async def _turn(self) -> None:
        group = await self._group()
        try:
            now = self._now()
            self._after_commit += self.engine.tick(now)
            known = self._known(group)
            batch: list[tuple[Finding, Id]] = []
            for one in group:
                self._decide(one, known, batch, now)
            await self._commit(batch)
            for one in group:
                self._acknowledge(one)
        finally:
            for one in group:  # none of them is, if this did not come to its end
                if not one.answer.done():
                    one.answer.set_exception(Unavailable("the loop could not write it down"))

    async def _group(self) -> list[_Waiting]:
        """What waits; nothing, if something else is to be done first."""
        if not self._waiting and not self._wake.is_set():
            due = self.engine.next_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - self._now())):
                    await self._wake.wait()
        self._wake.clear()
        group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
        if self._waiting:
            self._wake.set()
        for _ in group:
            self._room.release()
        return group

    def _known(self, group: list[_Waiting]) -> dict[Id, Id]:
        names = [one.taken.finding.id for one in group if one.taken.finding is not None]
        return self._journal.known(names) if names else {}

    def _decide(
        self, one: _Waiting, known: dict[Id, Id], batch: list[tuple[Finding, Id]], now: float
    ) -> None:
        for finding in self._findings(one.taken, now):
            if finding.id not in known:
                fresh = self._journal.known([finding.id]) if finding is not one.taken.finding else {}
                if not fresh:
                    incident, actions = self.engine.take(finding, now)
                    batch.append((finding, incident.id))
                    one.doing += [action for action in actions if action.doing is Doing.DO]
                    self._after_commit += actions  # of the commit that this turn ends with
                    fresh = {finding.id: incident.id}
                known |= fresh
            one.findings.append(finding.id)
            one.incidents.append(known[finding.id])

    def _findings(self, taken: Taken, now: float) -> list[Finding]:
        found = [] if taken.finding is None else [taken.finding]
        if self._rules is not None:
            found += [match.finding(now) for event in taken.events for match in self._seen(event)]
        return found

    def _seen(self, event: Event) -> list[Any]:
        assert self._rules is not None  # noqa: S101 - asked by the caller
        return list(self._rules.see(event))

    async def _commit(self, findings: list[tuple[Finding, Id]]) -> None:
        """Everything that has changed, then what was to follow it."""
        changes = self.engine.changes()
        batch = Batch(findings, list(changes.incidents.values()), list(changes.reactions.values()))
        after, self._after_commit = self._after_commit, []
        flushing, self._flushing = self._flushing, []
        try:
            await self._write(batch)
        except BaseException:
            _fail(flushing)
            raise
        for one in flushing:
            if not one.done():
                one.set_result(None)
        if changes.incidents:
            self._told()
        for action in after:
            self._begin(action)

    async def _write(self, batch: Batch) -> None:
        if batch:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.commit, batch)
            self.taken += len(batch.findings)

    def _acknowledge(self, one: _Waiting) -> None:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        every = [(action.reaction.id, action.doing) for action in one.doing]
        left = [what for what in every if what in self._doing_now]
        if left:
            for what in tuple(left):
                self._awaited.setdefault(what, []).append((done, left))
        else:
            done.set_result(len(every))
        if not one.answer.done():
            receipt = Receipt(findings=tuple(one.findings), incidents=tuple(one.incidents), done=done)
            one.answer.set_result(receipt)

    # ------------------------------------------------------------ acting

    def _next(self, actions: list[Action]) -> None:
        """After the commit that makes them durable."""
        self._after_commit += actions
        if actions:
            self._wake.set()

    def _begin(self, action: Action) -> None:
        self._doing_now.add((action.reaction.id, action.doing))
        task = asyncio.create_task(self._act(action))
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    async def _act(self, action: Action) -> None:
        """One after the other where they are about one thing."""
        if action.after:
            await asyncio.sleep(action.after)
        async with self._in_turn(action.reaction.command):
            if self.engine.wanted(action):
                self._came_to(await self._carried_out(action))
        self._over((action.reaction.id, action.doing))

    @asynccontextmanager
    async def _in_turn(self, command: Command) -> AsyncIterator[None]:
        subject = _waits_with(command)
        turn = self._turns.setdefault(subject, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[subject]

    def _came_to(self, more: list[Action]) -> None:
        """What an action came to is in no hurry to be written: until it is, it can be looked up. To look
        changes nothing, so that it waits for no commit either."""
        self._next([one for one in more if one.doing is not Doing.LOOK])
        for one in more:
            if one.doing is Doing.LOOK:
                self._begin(one)
        if self._written_later is None:
            self._written_later = asyncio.get_running_loop().call_later(LATER_S, self._write_now)

    def _write_now(self) -> None:
        self._written_later = None
        self._wake.set()

    async def _carried_out(self, action: Action) -> list[Action]:
        name, command = action.reaction.id, action.reaction.command
        error, again, there = None, False, None
        limit_s = _LONGER_S.get(command.deed, ACT_S) if action.doing is Doing.DO else ACT_S
        try:
            async with asyncio.timeout(limit_s):
                match action.doing:
                    case Doing.DO:
                        await self._actuator.do(command)
                    case Doing.UNDO:
                        await self._actuator.undo(command)
                    case Doing.LOOK:
                        there = await self._actuator.look(command)
        except TimeoutError:
            error, again = f"no answer within {limit_s:.0f} s", True
        except SupercloudError as raised:
            error, again = raised.message, not isinstance(raised, NotFound | Refused)
            _log.warning("loop.not_done", doing=action.doing, deed=command.deed, reason=raised.message)
        match action.doing:
            case Doing.DO:
                return self.engine.did(name, self._now(), error, again=again)
            case Doing.UNDO:
                return self.engine.undid(name, self._now(), error)
        return self.engine.looked(name, self._now(), there)

    def _over(self, what: tuple[Id, Doing]) -> None:
        self._doing_now.discard(what)
        for done, left in self._awaited.pop(what, ()):
            left.remove(what)
            if not left and not done.done():
                done.set_result(1)

    def _refuse_all(self) -> None:
        for one in self._waiting:
            if not one.answer.done():
                one.answer.set_exception(Unavailable("the loop has ended"))
        self._waiting.clear()
        _fail(self._flushing)
        _fail([done for waiting in self._awaited.values() for done, _ in waiting])

    # ------------------------------------------------------------ out

    def incidents(self) -> list[Incident]:
        return list(self.engine.incidents.values())

    def reactions(self, incident: Id) -> list[Reaction]:
        return self.engine.book.of_incident(incident)


def _waits_with(command: Command) -> tuple[str, Aspect]:
    """What it is one after the other with."""
    name, aspect = command.subject
    return (name, Aspect.POWER) if aspect in ONE_AFTER_ANOTHER else (name, aspect)


def _fail(waiting: Sequence[asyncio.Future[Any]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_exception(Unavailable("the loop has ended"))
            one.exception()  # whoever waited may be gone
