"""What users see of durable operations: rows that mirror them, waiting for a change, cancelling.

An operation is recorded in the same transaction as the intent that it carries out, and only then started;
one that was recorded and never started is started when the control plane comes up.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from sqlalchemy import ColumnElement, false, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, Failed, NotFound, SupercloudError
from supercloud.model.names import Id, new_id
from supercloud.model.states import OPERATION_TRANSITIONS, OperationState, move
from supercloud.ports.durable import Saga
from supercloud.services.caller import Caller
from supercloud.services.fates import seen_by
from supercloud.services.forgetting import Forget, keep_bounded
from supercloud.services.pages import Page, Part
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Operation
from supercloud.services.views import OperationView

_log = structlog.get_logger(__name__)
#: Another controller may be the one that moves an operation on: then there is nothing to wake us.
_LOOK_EVERY_S = 0.5
_ENDS = frozenset({OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED})

Intent = dict[str, Any]
#: A saga with everything it needs but its runtime and its intent; what it returns is the result.
Work = Callable[[Saga, Intent], Awaitable[dict[str, Any] | None]]


class Operations:
    """The rows, and who waits on them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed: defaultdict[Id, asyncio.Event] = defaultdict(asyncio.Event)
        self._works: dict[str, Work] = {}
        self._start: Callable[[Id], Awaitable[None]] | None = None
        self._forget: Forget | None = None

    def register(self, kind: str, work: Work) -> None:
        self._works[kind] = work

    def runs_on(self, start: Callable[[Id], Awaitable[None]], forget: Forget | None = None) -> None:
        """`start` hands an operation to the durable runtime; repeating it is harmless. `forget` has it forget
        those that ended."""
        self._start = start
        self._forget = forget

    async def keep_bounded(self) -> None:
        """Until cancelled, where there is a runtime that can forget."""
        if self._forget is not None:
            await keep_bounded(self._store, self._forget)

    # ------------------------------------------------------------ recording

    async def record(
        self,
        session: AsyncSession,
        kind: str,
        *,
        object_id: Id,
        name: str,
        cloud: Id | None,
        intent: Intent,
        join_key: str | None = None,
        parent: Id | None = None,
        phase: str = "",
    ) -> Id:
        """In the caller's transaction. The same request while one is open joins that one.

        `join_key` (default: the object) is what two open operations may not share. `parent`: the operation
        that this one is a part of.

        Raises:
            Conflict: another kind of operation, or another intent, is under way for it.
        """
        key = join_key or object_id
        joined = await _join(session, key, kind, intent)
        if joined is not None:
            return joined
        row = Operation(
            id=new_id(),
            cloud=cloud,
            kind=kind,
            object=object_id,
            object_name=name,
            intent=intent,
            join_key=key,
            parent=parent,
            phase=phase,
            state=OperationState.PENDING,
            created_at=time.time(),
        )
        try:
            async with session.begin_nested():
                session.add(row)
        except IntegrityError:  # somebody recorded one since we looked
            joined = await _join(session, key, kind, intent)
            if joined is None:
                raise
            return joined
        return row.id

    async def need_free(self, session: AsyncSession, key: Id) -> None:
        """For what is recorded under another key, and excludes what is under way here all the same.

        Raises:
            Conflict: something is.
        """
        if (other := await _open(session, key)) is not None:
            raise _busy(other)

    async def under_way(self, key: Id, kind: str, intent: Intent) -> bool:
        """Whether asking for this now would join an open operation.

        Raises:
            Conflict: as `record`.
        """
        async with self._store.read() as session:
            return await _join(session, key, kind, intent) is not None

    async def started(self, operation: Id, *, caller: Caller | None = None) -> OperationView:
        """After the transaction of `record`: hand it over, and show it."""
        if self._start is None:
            raise Failed("no durable runtime is up")
        await self._start(operation)
        return await self.view(operation, caller=caller)

    async def open(self) -> list[Id]:
        """Every operation that has not ended."""
        async with self._store.read() as session:
            return list(
                await session.scalars(
                    select(Operation.id).where(Operation.ended_at.is_(None)).order_by(Operation.created_at)
                )
            )

    async def open_under(self, key: Id) -> Id | None:
        """What is under way there."""
        async with self._store.read() as session:
            other = await _open(session, key)
        return None if other is None else other.id

    async def parts_of(self, parent: Id) -> dict[Id, Id]:
        """The operations that were begun as parts of it, by their objects."""
        async with self._store.read() as session:
            rows = await session.execute(
                select(Operation.object, Operation.id).where(Operation.parent == parent)
            )
            return dict(list(rows.all()))

    # ------------------------------------------------------------ running

    async def run(self, saga: Saga) -> None:
        """The durable runtime calls this, again after a crash: its steps are remembered by then."""
        row = await self._row(saga.operation)
        if row.ended_at is not None:
            return
        await self._write(row.id, state=OperationState.RUNNING)
        work = self._works.get(row.kind)
        try:
            if work is None:
                raise Failed(f"this version does not know operations of kind {row.kind}")
            result = await work(saga, row.intent)
        except SupercloudError as error:
            _log.warning(
                "operation.failed", operation=row.id, kind=row.kind, code=error.code, why=error.message
            )
            await self._end(row.id, error=error)
        except Exception as error:  # noqa: BLE001 - a bug ends its operation, not the program
            _log.exception("operation.bug", operation=row.id, kind=row.kind)
            await self._end(row.id, error=Failed(f"an internal error: {type(error).__name__}"))
        else:
            await self._end(row.id, result=result)

    async def progress(self, operation: Id, phase: str, done: float | None) -> None:
        await self._write(operation, phase=phase, done=done)

    async def note(self, operation: Id, result: dict[str, Any]) -> None:
        """What has come of it so far, which is shown, and stays where it fails."""
        await self._write(operation, result=result)

    async def cancel_asked(self, operation: Id) -> bool:
        return (await self._row(operation)).cancel_asked

    async def _end(
        self, operation: Id, *, error: SupercloudError | None = None, result: dict[str, Any] | None = None
    ) -> None:
        said = None
        if error is not None:
            said = {"code": error.code, "message": error.message} | (
                {"hint": error.hint} if error.hint else {}
            )
        async with self._store.write() as session:
            row = await session.get_one(Operation, operation)
            end = OperationState.SUCCEEDED
            if error is not None:
                end = OperationState.CANCELLED if row.cancel_asked else OperationState.FAILED
            row.state = move(OPERATION_TRANSITIONS, OperationState(row.state), end)
            row.error, row.ended_at = said, time.time()
            row.result = row.result if result is None else result
            row.done = 1.0 if end is OperationState.SUCCEEDED else row.done
        self._tell(operation)

    async def _write(self, operation: Id, *, state: OperationState | None = None, **values: Any) -> None:
        async with self._store.write() as session:
            row = await session.get_one(Operation, operation)
            if state is not None and row.state != OperationState.CANCELLING:
                row.state = move(OPERATION_TRANSITIONS, OperationState(row.state), state)
            for name, value in values.items():
                setattr(row, name, value)
        self._tell(operation)

    def _tell(self, operation: Id) -> None:
        if operation in self._changed:
            self._changed.pop(operation).set()

    # ------------------------------------------------------------ showing

    async def views(
        self,
        *,
        open_only: bool,
        kind: str | None,
        about: Id | None,
        clouds: tuple[Id, ...] | None,
        administered: bool,
        page: Page,
        caller: Caller | None,
    ) -> Part[OperationView]:
        """The newest first; of these clouds only, as `caller` may see them. None: all.

        `administered`: those about no cloud, too, if they are the caller's.
        """
        query = select(Operation).where(*page.picks(Operation.object_name, Operation.state))
        if clouds is not None:
            of_clouds = Operation.cloud.in_(clouds)
            others = _administered(caller) if administered and caller is not None else false()
            query = query.where(or_(of_clouds, others))
        if kind is not None:
            query = query.where(Operation.kind == kind)
        if about is not None:
            query = query.where(Operation.object == about)
        if open_only:
            query = query.where(Operation.ended_at.is_(None))
        query = page.of(query, Operation.created_at, Operation.id, newest=True)
        async with self._store.read() as session:
            rows = (await session.scalars(query)).all()
        return page.part(rows, lambda row: (row.created_at, row.id), lambda row: _view(row, caller))

    async def view(
        self,
        operation: Id,
        *,
        wait_s: float = 0.0,
        seen_phase: str | None = None,
        caller: Caller | None = None,
    ) -> OperationView:
        """Now; or when it changed, or ended already, or is no more in `seen_phase`, or after `wait_s`."""
        row = _shown_to(caller, operation, await self._row(operation))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        changed = self._changed[operation] if wait_s > 0 else None
        first = _view(row if changed is None else await self._row(operation), caller)
        view = first
        if seen_phase not in (None, first.phase):
            return first
        while changed is not None and view == first and view.state not in _ENDS:
            left_s = deadline - loop.time()
            if left_s <= 0:
                break
            try:
                async with asyncio.timeout(left_s if self._store.sqlite else min(left_s, _LOOK_EVERY_S)):
                    await changed.wait()
            except TimeoutError:
                pass
            else:
                changed = self._changed[operation]
            view = _view(await self._row(operation), caller)
        return view

    async def cancel(self, operation: Id, *, caller: Caller | None = None) -> OperationView:
        """Ask; the operation decides where it still can. Ended already: nothing happens."""
        async with self._store.write() as session:
            row = _shown_to(caller, operation, await session.get(Operation, operation))
            if row.ended_at is None:
                row.cancel_asked = True
                row.state = move(OPERATION_TRANSITIONS, OperationState(row.state), OperationState.CANCELLING)
        self._tell(operation)
        return await self.view(operation, caller=caller)

    async def cancel_all(self, kind: str, key: Id) -> None:
        """Those of a kind that are open under a key."""
        async with self._store.read() as session:
            other = await _open(session, key)
        if other is not None and other.kind == kind:
            await self.cancel(other.id)

    async def _row(self, operation: Id) -> Operation:
        async with self._store.read() as session:
            return _shown_to(None, operation, await session.get(Operation, operation))


def _shown_to(caller: Caller | None, operation: Id, row: Operation | None) -> Operation:
    """
    Raises:
        NotFound: there is none, or not for this caller.
    """
    if row is None or not (
        caller is None or row.cloud in caller.clouds or (row.cloud is None and caller.operator)
    ):
        raise NotFound(f"there is no operation {operation}")
    return row


def _administered(caller: Caller) -> ColumnElement[bool]:
    """What is about no cloud is about a provider, which operators have."""
    return Operation.cloud.is_(None) if caller.operator else false()


async def _join(session: AsyncSession, key: Id, kind: str, intent: Intent) -> Id | None:
    """The open operation under `key`, if it is the same.

    Raises:
        Conflict: it is another one.
    """
    other = await _open(session, key)
    if other is None:
        return None
    if (other.kind, other.intent) != (kind, intent):
        raise _busy(other)
    return other.id


async def _open(session: AsyncSession, key: Id) -> Operation | None:
    found: Operation | None = await session.scalar(
        select(Operation).where(Operation.join_key == key, Operation.ended_at.is_(None))
    )
    return found


def _busy(other: Operation) -> Conflict:
    said = f"{other.kind} of {other.object_name} is under way"
    return Conflict(said, hint=f"supercloud operation wait {other.id}, or cancel instead of wait")


def _view(row: Operation, caller: Caller | None) -> OperationView:
    return OperationView(
        id=row.id,
        kind=row.kind,
        object=row.object,
        object_name=row.object_name,
        state=OperationState(row.state),
        phase=row.phase,
        done=row.done,
        error=row.error,
        result=seen_by(caller, row.result),
        created_at=row.created_at,
        ended_at=row.ended_at,
        parent=row.parent,
        to=row.intent.get("target") if row.kind == "instance.migrate" else None,
    )
