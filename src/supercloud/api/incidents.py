"""Incidents over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from supercloud.api.bodies import Router
from supercloud.api.guard import IncidentAnswer, IncidentClose, IncidentEvidence, IncidentRead
from supercloud.api.pages import TIMED, Paged
from supercloud.api.things import InCloud
from supercloud.model.incidents import ExportFormat, IncidentState
from supercloud.model.names import Id
from supercloud.services.incident_views import (
    AnswerIt,
    CloseIt,
    EvidenceView,
    IncidentDetail,
    IncidentView,
    KeptView,
)
from supercloud.services.requests import Ref

_Incident = Annotated[Id, Path()]
_Reaction = Annotated[Id, Path()]
_Evidence = Annotated[Id, Path()]
_Format = Annotated[ExportFormat, Query()]


def routers() -> list[APIRouter]:
    return [_incidents(), _evidence()]


def _evidence() -> APIRouter:
    """Of all incidents; that of one is the incident's."""
    router = Router(prefix="/evidence", tags=["incidents"])

    @router.get("")
    async def ls(
        control: IncidentRead, cloud: InCloud = None, blanket: Annotated[Ref | None, Query()] = None
    ) -> KeptView:
        """What blankets keep, as they say now; of those that are away it says that they are."""
        return await control.kept(cloud=cloud, blanket=blanket)

    @router.get("/{evidence}")
    async def show(control: IncidentRead, evidence: _Evidence) -> EvidenceView:
        return await control.kept_one(evidence)

    return router


def _incidents() -> APIRouter:
    router = Router(prefix="/incidents", tags=["incidents"])

    @router.get("")
    async def ls(
        control: IncidentRead,
        paging: Paged,
        cloud: InCloud = None,
        state: IncidentState | None = None,
        open_only: bool = False,
    ) -> list[IncidentView]:
        """The newest first. `open_only`: those that are not closed."""
        page = paging.page(TIMED, state=state)
        return paging.answer(await control.incidents(cloud=cloud, open_only=open_only, page=page))

    @router.get("/{incident}")
    async def show(control: IncidentRead, incident: _Incident) -> IncidentDetail:
        """With its timeline: what was found, decided and done, and what proved that it worked."""
        return await control.incident(incident)

    @router.get("/{incident}/export")
    async def export(
        control: IncidentRead, incident: _Incident, format: _Format = ExportFormat.STIX
    ) -> dict[str, Any]:
        """To be handed on: ids, addresses, rules and times, and nobody's names."""
        return await control.export_incident(incident, format_=format)

    @router.get("/{incident}/evidence")
    async def evidence(control: IncidentRead, incident: _Incident) -> list[EvidenceView]:
        """What its blanket keeps, as that says now. To be fetched over a WebSocket, at `…/content`."""
        return await control.evidence(incident)

    @router.delete("/{incident}/evidence/{evidence}", status_code=HTTPStatus.NO_CONTENT)
    async def remove(control: IncidentEvidence, incident: _Incident, evidence: _Evidence) -> Response:
        """For ever: there is no other copy but those that were fetched."""
        await control.remove_evidence(incident, evidence)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @router.post("/{incident}/close")
    async def close(control: IncidentClose, incident: _Incident, request: CloseIt) -> IncidentDetail:
        """Told to its blanket; that it is closed is told back a moment later. The same again is harmless."""
        return await control.close_incident(incident, request)

    @router.post("/{incident}/reactions/{reaction}/answer")
    async def answer(
        control: IncidentAnswer, incident: _Incident, reaction: _Reaction, request: AnswerIt
    ) -> IncidentDetail:
        """To a reaction that asks first. Told to its blanket, which tells back what came of it."""
        return await control.answer_reaction(incident, reaction, request)

    return router
