"""Privileged acts on user data: a provider asks, the user sees and refuses; what comes of a grant is in
`services.consents`.

What a provider asks for is written down as the statement that the user agrees to, with a nonce of ours.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.acts import ACT_TRANSITIONS, OF_MEMORY, OPEN_ACTS, ActKind, ActState, Statement
from supercloud.model.bounded import Bounds
from supercloud.model.errors import Conflict, Exhausted, InvalidInput, NotFound
from supercloud.model.names import Id, Name, new_id
from supercloud.model.ocsf import one_line
from supercloud.model.placement import Confidentiality
from supercloud.model.states import move
from supercloud.ports.platform import Ability, Declaration
from supercloud.services.declarations import declaration_of
from supercloud.services.domains import find_domain
from supercloud.services.northbound import LAST
from supercloud.services.pages import Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import clouds_of, owned, within
from supercloud.services.requests import Ref
from supercloud.services.security_views import ActView, AskAct, AskedActView
from supercloud.services.store.security import ActRow
from supercloud.services.store.tables import LOCKED, Blanket, Cloud, Provider
from supercloud.services.store.time import wall

#: Open ones about one machine, and of one domain.
OPEN_OF_MACHINE, OPEN_OF_DOMAIN = 8, 256
#: Of one domain, ended ones.
KEPT = 2000
_PURPOSE = Bounds(bytes_=4 << 10, depth=1, values=1)


class Acts:
    """The part of Northbound about privileged acts that nobody has granted."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def acts(self, *, cloud: Ref | None = None, page: Page = LAST) -> Part[ActView]:
        async with self._parts.store.read() as session:
            query = _of_users(session)
            if cloud is not None and (clouds := await clouds_of(session, cloud)) is not None:
                query = query.where(ActRow.cloud.in_(clouds))
            if page.state is not None:
                query = query.where(ActRow.state == page.state)
            rows = (await session.execute(page.of(query, ActRow.created_at, ActRow.id, newest=True))).all()
        return page.part(rows, lambda row: (row[0].created_at, row[0].id), lambda row: _view(*row))

    async def act(self, act: Id) -> ActView:
        async with self._parts.store.read() as session:
            return await shown(session, act)

    async def refuse_act(self, act: Id) -> ActView:
        """The same again is harmless.

        Raises:
            Conflict: it has ended in another way.
        """
        async with self._parts.store.write() as session:
            await shown(session, act)
            await end(session, act, ActState.REFUSED)
            await session.flush()
            return await shown(session, act)


class Askings:
    """The part of Southbound about privileged acts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def ask_act(self, request: AskAct) -> AskedActView:
        """
        Raises:
            NotFound: there is no such machine in a domain of the caller's.
            InvalidInput: it could never hold.
            Exhausted: so many are open already.
        """
        async with self._parts.store.write() as session:
            machine = await _machine(session, request.machine)
            domain = await session.get_one(
                Provider, machine.provider, with_for_update=LOCKED, populate_existing=True
            )
            now = await wall(session)
            statement = _statement(request, domain.id)
            statement.check(now)
            enforced = _enforced(statement, declaration_of(machine, domain))
            await _check_bounds(session, machine.id, domain.id)
            await _forget_old(session, domain.id)
            row = ActRow(
                id=new_id(),
                domain=domain.id,
                cloud=machine.cloud,
                machine=machine.id,
                operation=statement.operation,
                arguments=statement.arguments,
                purpose=statement.purpose,
                not_before=statement.not_before,
                expires_at=statement.expires_at,
                nonce=statement.nonce,
                state=ActState.ASKED,
                created_at=now,
                deadline=float(statement.expires_at),
                page=statement.page,
                pages=statement.pages,
                enforced=enforced,
            )
            session.add(row)
        return asked_view(row, domain.name)

    async def asked_acts(self, *, domain: Ref | None = None, page: Page = LAST) -> Part[AskedActView]:
        """The newest first. `domain`: of this one."""
        async with self._parts.store.read() as session:
            query = _of_providers(session)
            if domain is not None:
                query = query.where(Provider.id == (await find_domain(session, domain)).id)
            if page.state is not None:
                query = query.where(ActRow.state == page.state)
            rows = (await session.execute(page.of(query, ActRow.created_at, ActRow.id, newest=True))).all()
        return page.part(rows, lambda row: (row[0].created_at, row[0].id), lambda row: asked_view(*row))

    async def asked_act(self, act: Id) -> AskedActView:
        async with self._parts.store.read() as session:
            return asked_view(*await asked_row(session, act))

    async def withdraw_act(self, act: Id) -> AskedActView:
        """The same again is harmless.

        Raises:
            Conflict: it has ended in another way.
        """
        async with self._parts.store.write() as session:
            _, domain = await asked_row(session, act)
            return asked_view(await end(session, act, ActState.WITHDRAWN), domain)


async def expire(session: AsyncSession, now: float) -> None:
    """Those that nobody said anything of, or did in time."""
    await _over(session, now, ActRow.deadline <= now)


async def machine_gone(session: AsyncSession, machine: Id, now: float) -> None:
    """What was asked of it is over."""
    await _over(session, now, ActRow.machine == machine)


# ---------------------------------------------------------------- inside


async def _over(session: AsyncSession, now: float, which: ColumnElement[bool]) -> None:
    taken = ActRow.state == ActState.TAKEN.value
    await session.execute(
        update(ActRow)
        .where(which, ActRow.state.in_([one.value for one in OPEN_ACTS]), ~taken)
        .values(state=ActState.EXPIRED.value, ended_at=now, consent=None)
    )
    await session.execute(
        update(ActRow)
        .where(which, taken)
        .values(state=ActState.FAILED.value, ended_at=now, reason="nobody knows what came of it")
    )


def _statement(request: AskAct, domain: Id) -> Statement:
    purpose = one_line(request.purpose)
    _PURPOSE.check(purpose, "the purpose")
    if not purpose:
        raise InvalidInput("a purpose has something to read in it")
    return Statement(
        operation=request.operation,
        object=request.machine,
        arguments=request.arguments,
        requester=domain,
        purpose=purpose,
        not_before=request.not_before,
        expires_at=request.expires_at,
        nonce=secrets.token_hex(16),
        page=request.page,
        pages=request.pages,
    )


def _enforced(statement: Statement, declared: Declaration) -> bool:
    """Whether the machine's platform does it with its user's consent alone.

    Raises:
        InvalidInput: it does, and of nothing but pages.
    """
    if Ability.CONSENT not in declared.abilities or statement.operation not in OF_MEMORY:
        return False
    if declared.confidentiality is not Confidentiality.ENFORCED:
        return False
    if statement.pages is None:
        raise InvalidInput("this platform enforces consents to pages", hint="say which, and how many")
    return True


async def _machine(session: AsyncSession, machine: Id) -> Blanket:
    query = (
        select(Blanket)
        .join(Provider, Provider.id == Blanket.provider)
        .where(Blanket.id == machine, Blanket.parent.is_(None), owned(session, Provider.owner))
    )
    found: Blanket | None = await session.scalar(query)
    if found is None:
        raise NotFound(f"there is no machine {machine}", hint="supercloud domain machines")
    return found


async def _check_bounds(session: AsyncSession, machine: Id, domain: Id) -> None:
    for which, most in (
        (ActRow.machine == machine, OPEN_OF_MACHINE),
        (ActRow.domain == domain, OPEN_OF_DOMAIN),
    ):
        count = select(func.count()).where(which, ActRow.state.in_([one.value for one in OPEN_ACTS]))
        if (await session.scalar(count) or 0) >= most:
            raise Exhausted(
                f"{most} acts are asked for already, which is all that can be", hint="withdraw some"
            )


async def _forget_old(session: AsyncSession, domain: Id) -> None:
    newest = (
        select(ActRow.id)
        .where(ActRow.domain == domain, ActRow.ended_at.is_not(None))
        .order_by(ActRow.created_at.desc(), ActRow.id.desc())
    )
    if beyond := list(await session.scalars(newest.offset(KEPT))):
        await session.execute(delete(ActRow).where(ActRow.id.in_(beyond)))


async def end(session: AsyncSession, act: Id, to: ActState) -> ActRow:
    """Move it on. Raises: Conflict (its time is over, or it is something else by now)."""
    row = await session.get_one(ActRow, act, with_for_update=True, populate_existing=True)
    now = await wall(session)
    was = ActState(row.state)
    if was in OPEN_ACTS and row.deadline <= now:
        raise Conflict("its time is over")
    try:
        row.state = move(ACT_TRANSITIONS, was, to)
    except Conflict as error:
        raise Conflict(f"the act is {was}") from error
    if to not in OPEN_ACTS:
        row.ended_at, row.consent = row.ended_at or now, None
    return row


def _of_users(session: AsyncSession) -> Any:
    return (
        select(ActRow, Provider.name, Cloud.name, Blanket.name)
        .join(Provider, Provider.id == ActRow.domain)
        .join(Cloud, Cloud.id == ActRow.cloud)
        .outerjoin(Blanket, Blanket.id == ActRow.machine)
        .where(within(session, ActRow.cloud))
    )


async def shown(session: AsyncSession, act: Id) -> ActView:
    """
    Raises:
        NotFound.
    """
    found = (await session.execute(_of_users(session).where(ActRow.id == act))).one_or_none()
    if found is None:
        raise NotFound(f"there is no act {act}", hint="supercloud act ls shows which there are")
    return _view(*found)


def _of_providers(session: AsyncSession) -> Any:
    return (
        select(ActRow, Provider.name)
        .join(Provider, Provider.id == ActRow.domain)
        .where(owned(session, Provider.owner))
    )


async def asked_row(session: AsyncSession, act: Id) -> tuple[ActRow, Name]:
    """
    Raises:
        NotFound.
    """
    found = (await session.execute(_of_providers(session).where(ActRow.id == act))).one_or_none()
    if found is None:
        raise NotFound(f"there is no act {act}", hint="supercloud domain acts")
    return found[0], found[1]


def _kept(row: ActRow) -> Statement:
    return Statement(
        operation=ActKind(row.operation),
        object=row.machine,
        arguments=row.arguments,
        requester=row.domain,
        purpose=row.purpose,
        not_before=row.not_before,
        expires_at=row.expires_at,
        nonce=row.nonce,
        epoch=row.epoch,
        page=row.page,
        pages=row.pages,
    )


def _view(row: ActRow, domain: Name, cloud: Name, blanket: Name | None) -> ActView:
    return ActView(
        id=row.id,
        state=ActState(row.state),
        domain=domain,
        blanket=blanket,
        cloud=cloud,
        cloud_id=row.cloud,
        statement=_kept(row),
        enforced=row.enforced,
        reason=row.reason or "",
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def asked_view(row: ActRow, domain: Name) -> AskedActView:
    return AskedActView(
        id=row.id,
        state=ActState(row.state),
        domain=domain,
        statement=_kept(row),
        enforced=row.enforced,
        reason=row.reason or "",
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
