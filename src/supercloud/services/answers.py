"""Answers that are kept, so that a request whose answer was lost can be made again and does nothing twice.

Who asks names its request by a key of its own. What a request makes is noted under its key in the very
transaction that makes it, so that a control plane which is killed between that and its answer still knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, InvalidInput
from supercloud.model.kinds import Kind
from supercloud.model.names import Id, new_id
from supercloud.services.store.changes import Act, made_by
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Answer

KEPT_S = 86400.0
#: Of one principal. The oldest make room.
KEPT_OF_ONE = 10_000
#: Another controller is at it for so long, or has died.
_LEASE_S = 120.0
_TIDY_EVERY = 64
_NOTED = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer of before. `body` None: it was given, and was not to be kept."""

    status: int
    media_type: str
    body: str | None


@dataclass(frozen=True, slots=True)
class Made:
    """What a request did to one thing."""

    act: Act
    kind: Kind
    id: Id

    def __str__(self) -> str:
        return f"{self.act} {self.kind} {self.id}"

    @classmethod
    def read(cls, text: str) -> Made:
        act, kind, identity = text.split(" ")
        return cls(Act(act), Kind(kind), identity)


@dataclass(frozen=True, slots=True)
class Claim:
    """The turn to carry a request out; caller.Terms of its transactions. `made`: by a try cut off before."""

    principal: Id
    key: str
    made: tuple[Made, ...] = ()

    async def before(self, session: AsyncSession) -> None:
        """Nothing has to hold."""

    async def after(self, session: AsyncSession) -> None:
        """Note what it made, together with that."""
        new = [str(Made(act, kind, identity)) for kind, identity, act in made_by(session)]
        row = await session.get(Answer, (self.principal, self.key)) if new else None
        if row is not None:
            row.made = [*(row.made or []), *new][:_NOTED]


class ThatIsUnderWay(Conflict):
    """The same request is being carried out: its answer can be had in a moment."""


class Answers:
    """Of one controller."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._run = new_id()
        self._under_way: set[tuple[Id, str]] = set()
        self._claims = 0

    async def claim(self, principal: Id, key: str, fingerprint: str) -> Claim | Kept:
        """The turn to carry it out, or what it was answered with. A claim is to be kept or dropped.

        Raises:
            InvalidInput: the key is another request's.
            ThatIsUnderWay: it is being carried out.
        """
        if (principal, key) in self._under_way:
            raise _under_way()
        self._under_way.add((principal, key))
        kept = False
        try:
            async with self._store.write() as session:
                found = await self._claimed(session, principal, key, fingerprint)
                await self._tidy(session, principal)
            kept = isinstance(found, Claim)
        except Conflict as error:  # another controller was quicker by a moment
            raise _under_way() from error
        finally:
            if not kept:
                self._under_way.discard((principal, key))
        return found

    async def keep(self, claim: Claim, answer: Kept) -> None:
        """A failure that changed nothing is not kept: the same request may succeed another time."""
        try:
            async with self._store.write() as session:
                row = await session.get(Answer, (claim.principal, claim.key))
                if row is None:
                    return
                if answer.status >= 400 and not row.made:
                    await session.delete(row)
                else:
                    row.status, row.media_type, row.body = answer.status, answer.media_type, answer.body
        finally:
            self.drop(claim)

    def drop(self, claim: Claim) -> None:
        """Without an answer: whoever asks again gets the turn, with what was made."""
        self._under_way.discard((claim.principal, claim.key))

    async def _claimed(
        self, session: AsyncSession, principal: Id, key: str, fingerprint: str
    ) -> Claim | Kept:
        now = self._now()
        row = await session.get(Answer, (principal, key), with_for_update=True)
        if row is not None and row.begun_at < now - KEPT_S:
            await session.delete(row)
            await session.flush()
            row = None
        if row is None:
            session.add(
                Answer(principal=principal, key=key, fingerprint=fingerprint, run=self._run, begun_at=now)
            )
            return Claim(principal, key)
        if row.fingerprint != fingerprint:
            raise InvalidInput(
                "that Idempotency-Key was sent with another request", hint="a key is for one request"
            )
        if row.status is not None:
            return Kept(row.status, row.media_type or "", row.body)
        if not self._store.sqlite and row.run != self._run and row.begun_at > now - _LEASE_S:
            raise _under_way()
        row.run, row.begun_at = self._run, now
        return Claim(principal, key, tuple(Made.read(one) for one in row.made or ()))

    async def _tidy(self, session: AsyncSession, principal: Id) -> None:
        """Now and then."""
        self._claims += 1
        if self._claims % _TIDY_EVERY:
            return
        await session.execute(delete(Answer).where(Answer.begun_at < self._now() - KEPT_S))
        oldest = await session.scalar(
            select(Answer.begun_at)
            .where(Answer.principal == principal)
            .order_by(Answer.begun_at.desc())
            .offset(KEPT_OF_ONE)
            .limit(1)
        )
        if oldest is not None:
            await session.execute(
                delete(Answer).where(Answer.principal == principal, Answer.begun_at <= oldest)
            )


def _under_way() -> ThatIsUnderWay:
    return ThatIsUnderWay("the same request is being carried out", hint="ask again in a moment")
