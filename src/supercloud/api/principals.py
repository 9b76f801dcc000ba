"""Principals and tokens over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Response, status

from supercloud.api.bodies import Router
from supercloud.api.guard import PrincipalRead, PrincipalWrite, TokenMint, TokenRead, TokenRevoke
from supercloud.api.pages import TEXT, TIMED, Named, Paged
from supercloud.api.things import RefPath
from supercloud.model.names import PublicKey
from supercloud.services.requests import AddPrincipal, MintToken, RevokeToken
from supercloud.services.views import MintedView, PrincipalView, RevokedView, TokenView

_Token = Annotated[str, Path(pattern=r"^[0-9a-f]{8,160}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rekey:
    key: PublicKey


def routers() -> list[APIRouter]:
    """Both of them."""
    return [_principals(), _tokens()]


def _principals() -> APIRouter:
    router = Router(prefix="/principals", tags=["principals"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def add(control: PrincipalWrite, request: AddPrincipal) -> PrincipalView:
        return await control.add_principal(request)

    @router.get("")
    async def ls(control: PrincipalRead, paging: Paged, name: Named = None) -> list[PrincipalView]:
        return paging.answer(await control.principals(page=paging.page(TEXT, name=name)))

    @router.get("/{ref}")
    async def show(control: PrincipalRead, ref: RefPath) -> PrincipalView:
        return await control.principal(ref)

    @router.put("/{ref}/key")
    async def rekey(control: PrincipalWrite, ref: RefPath, request: Rekey) -> PrincipalView:
        return await control.rekey_principal(ref, key=request.key)

    @router.delete("/{ref}", status_code=status.HTTP_204_NO_CONTENT)
    async def rm(control: PrincipalWrite, ref: RefPath) -> Response:
        await control.remove_principal(ref)
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    return router


def _tokens() -> APIRouter:
    router = Router(prefix="/tokens", tags=["tokens"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def mint(control: TokenMint, request: MintToken) -> MintedView:
        return await control.mint_token(request)

    @router.get("")
    async def ls(control: TokenRead, paging: Paged, name: Named = None) -> list[TokenView]:
        """`name`: of the principal that they were minted for."""
        return paging.answer(await control.tokens(page=paging.page(TIMED, name=name)))

    @router.get("/{token}")
    async def show(control: TokenRead, token: _Token) -> TokenView:
        """By as much of its id as tells it apart."""
        return await control.token(token)

    @router.post("/revoke")
    async def revoke(control: TokenRevoke, request: RevokeToken) -> RevokedView:
        return await control.revoke_token(request)

    return router
