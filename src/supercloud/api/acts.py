"""Privileged acts on user data over HTTP: providers ask for them and do them, users grant and refuse them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, status

from supercloud.api.bodies import Router
from supercloud.api.guard import ActDecide, ActRead, DomainAsk, DomainRead
from supercloud.api.pages import TIMED, Paged
from supercloud.api.things import InCloud
from supercloud.model.acts import ActState
from supercloud.model.names import Id
from supercloud.services.requests import Ref
from supercloud.services.security_views import (
    ActView,
    AskAct,
    AskChallenge,
    AskedActView,
    ChallengeView,
    ExportView,
    GrantAct,
)

_Act = Annotated[Id, Path()]


def router() -> APIRouter:
    """For users. Who says nothing has granted nothing: an act expires."""
    router = Router(prefix="/acts", tags=["acts"])

    @router.get("")
    async def ls(
        control: ActRead, paging: Paged, cloud: InCloud = None, state: ActState | None = None
    ) -> list[ActView]:
        """The newest first."""
        return paging.answer(await control.acts(cloud=cloud, page=paging.page(TIMED, state=state)))

    @router.get("/{act}")
    async def show(control: ActRead, act: _Act) -> ActView:
        return await control.act(act)

    @router.post("/{act}/refuse")
    async def refuse(control: ActDecide, act: _Act) -> ActView:
        return await control.refuse_act(act)

    @router.post("/{act}/challenge")
    async def challenge(control: ActDecide, act: _Act, request: AskChallenge) -> ChallengeView:
        """What a consent to this act has to answer, by the monitor below its machine's platform (`enforced`).
        Refused (409) where there is none; while a consent to another act on the machine waits, a conflict."""
        return await control.challenge_act(act, request)

    @router.post("/{act}/grant")
    async def grant(control: ActDecide, act: _Act, request: GrantAct) -> ActView:
        """With the consent that the owner's key store signed, where it is `enforced`; else as a word that
        binds our own interfaces only."""
        return await control.grant_act(act, request)

    @router.get("/{act}/export")
    async def export(control: ActRead, act: _Act) -> ExportView:
        """The pages that it gave, sealed to the user's key store."""
        return await control.act_export(act)

    return router


def southbound() -> APIRouter:
    """For providers: they ask, and see what became of it."""
    router = Router(prefix="/acts", tags=["acts"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def ask(control: DomainAsk, request: AskAct) -> AskedActView:
        """For one exact act on a machine, as a statement for its user to agree to."""
        return await control.ask_act(request)

    @router.get("")
    async def ls(
        control: DomainRead,
        paging: Paged,
        domain: Annotated[Ref | None, Query()] = None,
        state: ActState | None = None,
    ) -> list[AskedActView]:
        """The newest first."""
        return paging.answer(await control.asked_acts(domain=domain, page=paging.page(TIMED, state=state)))

    @router.get("/{act}")
    async def show(control: DomainRead, act: _Act) -> AskedActView:
        return await control.asked_act(act)

    @router.post("/{act}/withdraw")
    async def withdraw(control: DomainAsk, act: _Act) -> AskedActView:
        return await control.withdraw_act(act)

    @router.post("/{act}/perform")
    async def perform(control: DomainAsk, act: _Act) -> AskedActView:
        """Do it, where it is `enforced`: the user's consent is presented to the monitor below the platform.
        It is refused (409) without one, and the user is told."""
        return await control.perform_act(act)

    @router.get("/{act}/export")
    async def export(control: DomainRead, act: _Act) -> ExportView:
        """The pages that it gave, sealed to the user."""
        return await control.asked_export(act)

    return router
