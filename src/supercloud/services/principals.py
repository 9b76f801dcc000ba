"""Principals and their tokens. The key store signs tokens; here is who gets one, and which count no more."""

from __future__ import annotations

import time
from dataclasses import asdict

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, Denied, InvalidInput, NotFound
from supercloud.model.names import Id, PublicKey, new_id
from supercloud.model.permissions import Permission, Role
from supercloud.ports.keystore import TokenRequest
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import caller_of, find_cloud, find_principal
from supercloud.services.requests import AddPrincipal, MintToken, Ref, RevokeToken
from supercloud.services.store.tables import (
    Cloud,
    Image,
    MintedToken,
    Principal,
    Provider,
    Revocation,
)
from supercloud.services.views import MintedView, PrincipalView, RevokedView, TokenView
from supercloud.trust import tokens
from supercloud.trust.keys import named_public
from supercloud.trust.tokens import Token

#: Of a token whose time cannot be told, its revocation is kept for as long as one can be minted for.
LONGEST_S = 400 * 86400.0
_FIRST_NAME = "operator"
_OPERATORS = (Role.OPERATOR, Role.OWNER)


class Principals:
    """The part of Northbound about principals and tokens."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # ------------------------------------------------------------ principals

    async def enroll(self, key: PublicKey) -> Id:
        """Have the holder of this key as an operator, whoever there is besides: what its owner starts the
        control plane with."""
        async with self._parts.store.write() as session:
            row = await session.scalar(select(Principal).where(Principal.key == key))
            if row is None:
                taken = await session.scalar(select(Principal.id).where(Principal.name == _FIRST_NAME))
                name = f"{_FIRST_NAME}-{key[-8:]}" if taken else _FIRST_NAME
                row = _new(name, key, _OPERATORS)
                session.add(row)
            elif Role.OPERATOR not in row.roles:
                row.roles = sorted({*row.roles, Role.OPERATOR})
        self._parts.directory.changed()
        return row.id

    async def add_principal(self, request: AddPrincipal) -> PrincipalView:
        roles = _roles(request)
        async with self._parts.store.write() as session:
            for column, value in ((Principal.name, request.name), (Principal.key, request.key)):
                if await session.scalar(select(Principal.id).where(column == value)):
                    raise Conflict(
                        f"there is a principal {value} already",
                        hint="supercloud principal ls, or another name",
                    )
            row = _new(request.name, request.key, roles)
            session.add(row)
        self._parts.directory.changed()
        return _view(row, 0)

    async def principals(self, *, page: Page = EVERYTHING) -> Part[PrincipalView]:
        async with self._parts.store.read() as session:
            caller = caller_of(session)
            query = page.of(select(Principal).where(*page.picks(Principal.name)), Principal.name)
            if caller is not None and not caller.operator:
                query = query.where(Principal.id == caller.principal)
            clouds = dict(
                (await session.execute(select(Cloud.owner, func.count()).group_by(Cloud.owner))).all()
            )
            rows = (await session.scalars(query)).all()
        return page.part(rows, lambda row: (row.name,), lambda row: _view(row, clouds.get(row.id, 0)))

    async def principal(self, ref: Ref) -> PrincipalView:
        async with self._parts.store.read() as session:
            row = await find_principal(session, ref)
            clouds = await session.scalar(select(func.count()).where(Cloud.owner == row.id))
            return _view(row, clouds or 0)

    async def rekey_principal(self, ref: Ref, *, key: PublicKey) -> PrincipalView:
        """Every token of the former key stops counting."""
        named_public(key)
        async with self._parts.store.write() as session:
            row = await find_principal(session, ref)
            if await session.scalar(select(Principal.id).where(Principal.key == key, Principal.id != row.id)):
                raise Conflict("that key is another principal's")
            row.key = key
        self._parts.directory.changed()
        return await self.principal(row.id)

    async def remove_principal(self, ref: Ref) -> None:
        """
        Raises:
            Conflict: it owns something, or is the last operator.
        """
        async with self._parts.store.write() as session:
            row = await find_principal(session, ref)
            for table, command in ((Cloud, "cloud"), (Image, "image"), (Provider, "domain")):
                name = await session.scalar(select(table.name).where(table.owner == row.id).limit(1))
                if name is not None:
                    raise Conflict(f"principal {row.name} owns {command} {name}")
            others = await session.scalars(select(Principal).where(Principal.id != row.id))
            if Role.OPERATOR in row.roles and not any(Role.OPERATOR in one.roles for one in others):
                raise Conflict(f"principal {row.name} is the last operator")
            await session.execute(delete(MintedToken).where(MintedToken.principal == row.id))
            await session.delete(row)
        self._parts.directory.changed()

    # ------------------------------------------------------------ tokens

    async def mint_token(self, request: MintToken) -> MintedView:
        """For oneself, or for anybody if an operator asks. It is bound to the principal's key."""
        if not 0 < request.lasts_s <= LONGEST_S:
            raise InvalidInput(f"a token lasts at most {LONGEST_S / 86400:.0f} days")
        async with self._parts.store.read() as session:
            principal = await _minted_for(session, request.principal)
            clouds = None
            if request.clouds is not None:
                clouds = tuple([(await find_cloud(session, one)).id for one in request.clouds])
        now = time.time()
        text = await self._parts.keys.mint_token(
            TokenRequest(
                principal=principal.id,
                roles=tuple(Role(one) for one in principal.roles),
                holder=principal.key,
                until=now + request.lasts_s,
                only=request.only,
                clouds=clouds,
            )
        )
        row = MintedToken(
            id=tokens.peek(text).revocation_ids[0],
            principal=principal.id,
            only=None if request.only is None else sorted(request.only),
            clouds=None if clouds is None else list(clouds),
            minted_at=now,
            expires_at=now + request.lasts_s,
        )
        async with self._parts.store.write() as session:
            await session.execute(delete(MintedToken).where(MintedToken.expires_at < now))
            session.add(row)
        return MintedView(token=text, **asdict(_token_view(row, principal.name, revoked=False)))

    async def tokens(self, *, page: Page = EVERYTHING) -> Part[TokenView]:
        """That were minted: its own ones, or an operator's choice of all. What descends is not known here."""
        async with self._parts.store.read() as session:
            caller = caller_of(session)
            query = (
                select(MintedToken, Principal.name)
                .join(Principal, Principal.id == MintedToken.principal)
                .where(MintedToken.expires_at >= time.time(), *page.picks(Principal.name))
            )
            query = page.of(query, MintedToken.minted_at, MintedToken.id)
            if caller is not None and not caller.operator:
                query = query.where(MintedToken.principal == caller.principal)
            revoked = frozenset(await session.scalars(select(Revocation.id)))
            rows = (await session.execute(query)).all()
        return page.part(
            rows,
            lambda row: (row[0].minted_at, row[0].id),
            lambda row: _token_view(row[0], row[1], revoked=row[0].id in revoked),
        )

    async def token(self, prefix: str) -> TokenView:
        """By its id, or how that begins.

        Raises:
            NotFound: no such token, or another principal's; Conflict: several begin so.
        """
        async with self._parts.store.read() as session:
            caller = caller_of(session)
            of = None if caller is None or caller.operator else caller.principal
            row = await _begins(session, prefix, of=of)
            principal = await session.get_one(Principal, row.principal)
            revoked = await session.get(Revocation, row.id) is not None
            return _token_view(row, principal.name, revoked=revoked)

    async def revoke_token(self, request: RevokeToken) -> RevokedView:
        """With all that descends from it. The same again is harmless.

        Raises:
            NotFound: no such token, or not the caller's to revoke.
        """
        now = time.time()
        async with self._parts.store.write() as session:
            if request.token is not None:
                identity = await self._revocable(session, request.token)
            else:
                identity = await _minted(session, request.id or "")
            await session.execute(delete(Revocation).where(Revocation.expires_at < now))
            if await session.get(Revocation, identity) is None:
                session.add(Revocation(id=identity, revoked_at=now, expires_at=now + LONGEST_S))
        self._parts.directory.changed()
        return RevokedView(id=identity, revoked=True)

    async def _revocable(self, session: AsyncSession, text: str) -> str:
        token = tokens.read(text, await self._parts.keys.token_root())
        caller = caller_of(session)
        if caller is not None and not (caller.operator and caller.undivided):
            _check_descent(token, caller.principal, caller.undivided, caller.revocation_ids)
        return token.revocation_ids[-1]


def _check_descent(token: Token, principal: Id, undivided: bool, ids: tuple[str, ...]) -> None:
    """A principal revokes what was minted for it; who was handed a token, what it made of that."""
    descends = token.revocation_ids[: len(ids)] == ids
    if token.principal != principal or not (undivided or descends):
        raise Denied("the token is not yours, nor descends from yours")


async def _minted(session: AsyncSession, prefix: str) -> str:
    """The id of a minted token, from as much of it as tells it apart."""
    caller = caller_of(session)
    of = None
    if caller is not None and not (caller.operator and caller.undivided):
        if not caller.undivided:
            raise Denied("by its id only who holds a token as it was minted may revoke another")
        of = caller.principal
    return (await _begins(session, prefix, of=of)).id


async def _begins(session: AsyncSession, prefix: str, *, of: Id | None) -> MintedToken:
    """The only one whose id begins so; of one principal, or of any."""
    query = select(MintedToken).where(MintedToken.id.startswith(prefix, autoescape=True)).limit(2)
    if of is not None:
        query = query.where(MintedToken.principal == of)
    found = list(await session.scalars(query))
    if not found:
        raise NotFound(f"no token {prefix[:16]} was minted", hint="supercloud token ls shows which were")
    if len(found) > 1:
        raise Conflict(f"several tokens begin with {prefix}", hint="give more of the id")
    return found[0]


async def _minted_for(session: AsyncSession, ref: Ref | None) -> Principal:
    caller = caller_of(session)
    if ref is None:
        if caller is None:
            raise InvalidInput("it is not said for whom")
        ref = caller.principal
    return await find_principal(session, ref)


def _roles(request: AddPrincipal) -> tuple[Role, ...]:
    """
    Raises:
        InvalidInput: somebody would see both sides.
    """
    if request.provider and request.operator:
        raise InvalidInput("a provider's principal is no operator", hint="add two, with a key each")
    if request.provider:
        return (Role.PROVIDER,)
    return _OPERATORS if request.operator else (Role.OWNER,)


def _new(name: str, key: PublicKey, roles: tuple[Role, ...]) -> Principal:
    named_public(key)  # one that is everybody's is nobody's
    return Principal(
        id=new_id(), name=name, key=key, roles=[str(one) for one in roles], created_at=time.time()
    )


def _view(row: Principal, clouds: int) -> PrincipalView:
    return PrincipalView(
        id=row.id,
        name=row.name,
        key=row.key,
        roles=tuple(Role(one) for one in row.roles),
        clouds=clouds,
        created_at=row.created_at,
    )


def _token_view(row: MintedToken, principal: str, *, revoked: bool) -> TokenView:
    return TokenView(
        id=row.id,
        principal=principal,
        only=None if row.only is None else tuple(Permission(one) for one in row.only),
        clouds=None if row.clouds is None else tuple(row.clouds),
        minted_at=row.minted_at,
        expires_at=row.expires_at,
        revoked=revoked,
    )
