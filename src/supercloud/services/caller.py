"""On whose behalf something is asked, and what of everything that lets it see and change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.names import Id


class Terms(Protocol):
    """What a request says of every transaction that it leads to, beside what it asks for."""

    async def before(self, session: AsyncSession) -> None:
        """As it begins. Raises: SupercloudError (it is not to be)."""
        ...

    async def after(self, session: AsyncSession) -> None:
        """When everything else in it is done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Of one request, already found to be allowed. To nobody else does anything outside of `clouds` exist."""

    principal: Id
    operator: bool
    undivided: bool  # its token is as it was minted
    revocation_ids: tuple[str, ...]  # of its token
    clouds: tuple[Id, ...]  # its own ones in which its token allows what it asks for
    terms: tuple[Terms, ...] = ()
