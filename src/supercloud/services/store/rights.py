"""ports.rights.RightsStore on the database: who may run an instance.

Each method is one transaction that locks its rows, reads the store's clock *after* that, decides with
model.right, and writes. Rows count from after the commit: what is written allows for the commit to take
`_COMMIT_S`, and where it took longer the row is moved before anybody hears the answer.

An answer that carries a right always renews the row's expiry, also when a repeated request is answered
again: the holder counts a full length from it, so the store has to as well.

When the store comes back as another incarnation (reboot, failover, restore), what was committed last may be
missing: no right moves for the longest length plus margin, and each row is `unsure` until its holder renewed.
An unsure row takes its holder's nonce as it is, once, since the one that it remembers may be old; and it goes
on above the highest epoch that an agent reports.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlalchemy import ColumnElement, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model import right
from supercloud.model.errors import Conflict, NotFound, RightRefused
from supercloud.model.names import Epoch, Id
from supercloud.model.right import Renewal, RightRecord, RightTerms, RunRight
from supercloud.ports.controller import RenewalAnswer
from supercloud.ports.rights import Decision, Standing, Verdict
from supercloud.services.store import incarnation, renewals
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import MigrationRow, Right
from supercloud.services.store.time import Timekeeper, timekeeper

_COMMIT_S = 2.0
#: What one blanket asks for at once.
Heartbeat = tuple[Id, Sequence[Renewal]]
_FIELDS = ("epoch", "holder", "expires_at", "nonce", "last_request", "last_consumed", "hold")


@dataclass(slots=True)
class _Turn:
    """One transaction's view: the rows it locked, the moment after that, and the rows it made longer."""

    session: AsyncSession
    rows: dict[Id, Right]
    now: float
    quarantined_until: float
    extended: list[tuple[Id, Epoch, float]]

    def row(self, instance: Id) -> Right:
        """
        Raises:
            NotFound.
        """
        if (row := self.rows.get(instance)) is None:
            raise NotFound(f"there is no instance {instance}")
        return row

    def longer(self) -> list[Any]:
        """The rows that it made longer, each once."""
        return [self.rows[instance] for instance in dict.fromkeys(one[0] for one in self.extended)]


class SqlRights:
    """The implementation. Beyond the port: rows are made and dropped with their instances."""

    def __init__(self, store: Store, clock: Timekeeper | None = None) -> None:
        self._store = store
        self._clock = clock or timekeeper(store)

    # ------------------------------------------------------------ rows

    @staticmethod
    def create(
        session: AsyncSession, instance: Id, *, cloud: Id, terms: RightTerms, hold: bool = False
    ) -> None:
        """Within the caller's transaction, which makes the instance as well."""
        session.add(
            Right(
                instance=instance,
                cloud=cloud,
                hold=hold,
                length_s=terms.length_s,
                margin_s=terms.margin_s,
                grace_s=terms.grace_s,
                renew_every_s=terms.renew_every_s,
            )
        )

    async def now(self, session: AsyncSession) -> float:
        """Now on the store's clock, to show what is left of rights."""
        return await self._clock.now_s(session)

    async def quarantine_left_s(self) -> float:
        async with self._turn() as turn:
            return max(0.0, turn.quarantined_until - turn.now)

    async def heard(self, epochs: Mapping[Id, Epoch], *, cloud: Id) -> None:
        """What an agent says it holds. It raises only rows of its cloud that are unsure after a restore."""
        async with self._turn(Right.instance.in_(epochs)) as turn:
            for row in turn.rows.values():
                if row.cloud == cloud and row.unsure:
                    _put(row, right.raise_above(_record(row), reported=epochs[row.instance]))

    # ------------------------------------------------------------ ports.rights.RightsStore

    async def standing(self, instance: Id) -> Standing:
        async with self._turn(Right.instance == instance) as turn:
            row = turn.row(instance)
            return Standing(record=_record(row), free_in_s=_free_in(row, turn))

    async def issue(self, instance: Id, *, to: Id, operation: Id) -> RunRight:
        async with self._turn(Right.instance == instance) as turn:
            row = turn.row(instance)
            if row.holder == to and row.issued_for == operation:
                return _again(turn, row)
            return _move(turn, row, to=to, operation=operation)

    async def renew(self, *, by: Id, renewals: Sequence[Renewal]) -> list[RenewalAnswer]:
        return (await self.renew_all([(by, renewals)]))[0]

    async def renew_all(self, asked: Sequence[Heartbeat]) -> list[list[RenewalAnswer]]:
        """Several heartbeats, one after another in one transaction."""
        instances = {one.instance for _, of_one in asked for one in of_one}
        async with self._turn(renewed=instances) as turn:
            answers = [
                [_renew(turn, turn.rows.get(one.instance), one, by=by) for one in renewals]
                for by, renewals in asked
            ]
            migrating = await _migrating(turn.session, turn.rows)
            return [
                [_not_decided(one) if one.instance in migrating else one for one in of_one]
                for of_one in answers
            ]

    async def surrender(self, instance: Id, *, by: Id, epoch: Epoch) -> None:
        async with self._turn(Right.instance == instance) as turn:
            row = turn.row(instance)
            _put(row, right.surrender(_record(row), by=by, epoch=epoch))

    async def open_migration(self, operation: Id, *, instance: Id, source: Id, target: Id) -> Decision:
        async with self._turn(Right.instance == instance) as turn:
            row = turn.row(instance)
            if (known := await turn.session.get(MigrationRow, operation)) is not None:
                return _stands(turn, known, row)
            if row.holder != source:
                raise RightRefused(f"blanket {source} does not hold the right of {instance}")
            await _refuse_second(turn.session, instance)
            turn.session.add(
                MigrationRow(
                    operation=operation,
                    instance=instance,
                    source=source,
                    target=target,
                    epoch=row.epoch,
                    verdict=Verdict.OPEN,
                )
            )
            return Decision(verdict=Verdict.OPEN)

    async def decision(self, operation: Id) -> Decision:
        async with self._turn(_migrated_by(operation)) as turn:
            migration, row = await _contested(turn, operation)
            return _stands(turn, migration, row)

    async def commit(self, operation: Id, *, source_gone: bool) -> Decision:
        return await self._decide(operation, Verdict.COMMITTED, source_gone=source_gone)

    async def abort(self, operation: Id) -> Decision:
        async with self._turn(_migrated_by(operation)) as turn:
            migration, row = await _contested(turn, operation)
            if migration.verdict == Verdict.OPEN:
                migration.verdict = Verdict.ABORTED
            return _stands(turn, migration, row)

    async def cold_start(self, operation: Id, *, source_gone: bool) -> Decision:
        return await self._decide(operation, Verdict.COLD_STARTED, source_gone=source_gone)

    async def _decide(self, operation: Id, verdict: Verdict, *, source_gone: bool) -> Decision:
        async with self._turn(_migrated_by(operation)) as turn:
            migration, row = await _contested(turn, operation)
            if migration.verdict != Verdict.OPEN:
                return _stands(turn, migration, row)
            if row.epoch != migration.epoch:
                raise RightRefused(f"the right moved on: epoch {row.epoch}, not {migration.epoch}")
            if source_gone and row.holder == migration.source:
                _put(row, right.surrender(_record(row), by=migration.source, epoch=row.epoch))
            to = migration.target if verdict is Verdict.COMMITTED else migration.source
            granted = _move(turn, row, to=to, operation=operation)
            migration.verdict = verdict
            return Decision(verdict=verdict, right=granted)

    # ------------------------------------------------------------ transactions

    @asynccontextmanager
    async def _turn(
        self, which: ColumnElement[bool] | None = None, *, renewed: Collection[Id] = ()
    ) -> AsyncIterator[_Turn]:
        """Lock these rows, or those of `renewed`, which are renewed only; read the clock, decide in the
        block, commit.

        In this order: the clock of whoever waits for a lock is later than that of whoever had it, however
        long a controller is stopped in between, so that no expiry that was answered ever becomes shorter.
        """
        while True:
            async with self._store.write() as session:
                rows = await _locked(session, which, renewed)
                moment = await incarnation.look(session, self._clock)
                if moment is not None:
                    turn = _Turn(session, rows, moment.now, moment.quarantined_until, [])
                    yield turn
                    if renewed:
                        await renewals.write(session, turn.longer())
            if moment is not None:
                break
            async with self._store.write() as session:  # a refusal in the same transaction would undo it
                await incarnation.begin(session, self._clock)
        await self._count_from_commit(turn)

    async def _count_from_commit(self, turn: _Turn) -> None:
        """Make good for a commit that took longer than was allowed for, before anybody hears the answer."""
        begun = turn.now
        while turn.extended:
            async with self._store.read() as session:
                now = await self._clock.now_s(session)
            if now - begun <= _COMMIT_S:
                return
            begun = now
            async with self._store.write() as session:
                for instance, epoch, length_s in turn.extended:
                    until = now + length_s + _COMMIT_S
                    await session.execute(
                        update(Right)
                        .where(Right.instance == instance, Right.epoch == epoch, Right.expires_at < until)
                        .values(expires_at=until)
                    )


async def _locked(
    session: AsyncSession, which: ColumnElement[bool] | None, renewed: Collection[Id]
) -> dict[Id, Right]:
    """In one order, so that two controllers' transactions never wait for each other."""
    if renewed:
        return cast(dict[Id, Right], await renewals.locked(session, renewed))  # enough to renew it
    if which is None:
        return {}
    found = await session.scalars(select(Right).where(which).order_by(Right.instance).with_for_update())
    return {row.instance: row for row in found}


def _migrated_by(operation: Id) -> ColumnElement[bool]:
    return Right.instance.in_(select(MigrationRow.instance).where(MigrationRow.operation == operation))


async def _contested(turn: _Turn, operation: Id) -> tuple[MigrationRow, Right]:
    """A migration's row and its instance's, both locked, in the order that every transaction uses."""
    migration = await turn.session.get(MigrationRow, operation, with_for_update=True)
    if migration is None:
        raise NotFound(f"operation {operation} opened no migration")
    return migration, turn.row(migration.instance)


_MIGRATING = select(MigrationRow.instance, MigrationRow.operation).where(
    MigrationRow.instance.in_(bindparam("instances", expanding=True)), MigrationRow.verdict == Verdict.OPEN
)


async def _migrating(session: AsyncSession, instances: Iterable[Id]) -> dict[Id, Id]:
    """The open migration of each of `instances` that has one."""
    found = await session.execute(_MIGRATING, {"instances": list(instances)})
    return dict(list(found.all()))


async def _refuse_second(session: AsyncSession, instance: Id) -> None:
    other = (await _migrating(session, [instance])).get(instance)
    if other is not None:
        raise Conflict(f"instance {instance} is being migrated by operation {other}")


def _record(row: Right) -> RightRecord:
    return RightRecord(instance=row.instance, **{name: getattr(row, name) for name in _FIELDS})


def _put(row: Right, record: RightRecord) -> None:
    for name in _FIELDS:
        setattr(row, name, getattr(record, name))


def _terms(row: Right) -> RightTerms:
    return RightTerms(
        length_s=row.length_s, margin_s=row.margin_s, grace_s=row.grace_s, renew_every_s=row.renew_every_s
    )


def _free_in(row: Right, turn: _Turn) -> float | None:
    if row.holder is None:
        return max(0.0, turn.quarantined_until - turn.now)
    if row.hold:
        return None
    return max(0.0, row.expires_at + row.margin_s - turn.now, turn.quarantined_until - turn.now)


def _extend(turn: _Turn, row: Right, record: RightRecord, terms: RightTerms) -> RunRight:
    """Write `record` with an expiry that allows for the commit; what its holder is handed."""
    _put(row, record)
    row.expires_at = turn.now + terms.length_s + _COMMIT_S
    turn.extended.append((row.instance, row.epoch, terms.length_s))
    return right.granted(record, terms)


def _again(turn: _Turn, row: Right) -> RunRight:
    return _extend(turn, row, _record(row), _terms(row))


def _move(turn: _Turn, row: Right, *, to: Id, operation: Id) -> RunRight:
    terms = _terms(row)
    record = right.issue(
        _record(row),
        to=to,
        now=turn.now,
        terms=terms,
        nonce=secrets.token_hex(16),
        hold=row.hold,
        quarantined_until=turn.quarantined_until,
    )
    row.issued_for, row.unsure = operation, False
    return _extend(turn, row, record, terms)


def _renew(turn: _Turn, row: Right | None, asked: Renewal, *, by: Id) -> RenewalAnswer:
    if row is None:
        return RenewalAnswer(instance=asked.instance, refused=NotFound.code)
    record, terms = _record(row), _terms(row)
    if row.unsure and asked.nonce != record.last_consumed:
        record = replace(record, nonce=asked.nonce)
    try:
        renewed = right.renew(record, asked, by=by, now=turn.now, terms=terms, nonce=secrets.token_hex(16))
    except RightRefused as refusal:
        return RenewalAnswer(instance=asked.instance, refused=refusal.code)
    row.unsure = False
    return RenewalAnswer(instance=asked.instance, right=_extend(turn, row, renewed, terms))


def _not_decided(answer: RenewalAnswer) -> RenewalAnswer:
    return answer if answer.right is None else replace(answer, right=replace(answer.right, contested=True))


def _stands(turn: _Turn, migration: MigrationRow, row: Right) -> Decision:
    """What was decided, with the right that it issued as long as that is still held."""
    verdict = Verdict(migration.verdict)
    held = row.issued_for == migration.operation and row.holder is not None
    return Decision(verdict=verdict, right=_again(turn, row) if held else None)
