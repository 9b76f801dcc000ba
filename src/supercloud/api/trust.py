"""Trust relations over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, status

from supercloud.api.bodies import Router
from supercloud.api.guard import TrustRead, TrustWrite
from supercloud.api.pages import TIMED, Paged
from supercloud.api.things import InCloud
from supercloud.model.names import Id
from supercloud.model.trust import TrustKind, TrustState
from supercloud.services.requests import GrantTrust
from supercloud.services.views import TrustView

_Relation = Annotated[Id, Path()]


def router() -> APIRouter:
    """All that there is about them. Who sees one may let it end: a relation that is not wanted is none."""
    router = Router(prefix="/trust", tags=["trust"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def grant(control: TrustWrite, request: GrantTrust) -> TrustView:
        return await control.grant_trust(request)

    @router.get("")
    async def ls(
        control: TrustRead,
        paging: Paged,
        cloud: InCloud = None,
        kind: TrustKind | None = None,
        state: TrustState | None = None,
    ) -> list[TrustView]:
        """`cloud`: which grants them, is trusted by them, or is where they began."""
        page = paging.page(TIMED, state=state)
        return paging.answer(await control.trusts(cloud=cloud, kind=kind, page=page))

    @router.get("/{relation}")
    async def show(control: TrustRead, relation: _Relation) -> TrustView:
        return await control.trust(relation)

    @router.post("/{relation}/revoke")
    async def revoke(control: TrustWrite, relation: _Relation) -> TrustView:
        """With all that descends from it."""
        return await control.revoke_trust(relation)

    return router
