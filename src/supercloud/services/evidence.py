"""Evidence of an incident: where its blanket has it, for whoever has the blanket's cloud.

The control plane passes it on and can open none of it. Which there is, its blanket says; of lists over many
blankets see `evidence_lists`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import select

from supercloud.model.errors import NotFound, Unavailable
from supercloud.model.names import Id, Name
from supercloud.ports.evidence import REMOVED, EvidenceRef, EvidenceReport, SendEvidence
from supercloud.services import inbox
from supercloud.services.evidence_lists import EvidenceLists
from supercloud.services.incident_views import AwayView, EvidenceView, KeptView
from supercloud.services.incidents import find_incident, id_of
from supercloud.services.northbound import Stream
from supercloud.services.parts import Parts
from supercloud.services.refs import called, caller_of, clouds_of, find_blanket, within
from supercloud.services.requests import Ref
from supercloud.services.store.security import IncidentRow
from supercloud.services.store.tables import Blanket, Instance


class Evidences:
    """The part of Northbound about evidence."""

    _lists: EvidenceLists  # of this controller, whoever asks

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def evidence(self, incident: Id) -> list[EvidenceView]:
        """
        Raises:
            NotFound: the incident, for the caller. Unavailable: its blanket is away.
        """
        async with self._parts.store.read() as session:
            row = await find_incident(session, incident)
        if row.horizontal:
            return []  # each blanket's own incident has its own
        return await self._views([(row.blanket, one) for one in await self._there(row)])

    async def kept(self, *, cloud: Ref | None = None, blanket: Ref | None = None) -> KeptView:
        """Blankets that have told of no incident keep none.

        Raises:
            NotFound: the cloud, or the blanket.
        """
        return await self._gathered(await self._blankets(cloud, blanket))

    async def kept_one(self, evidence: Id) -> EvidenceView:
        """
        Raises:
            NotFound: no blanket of the caller's has it. Unavailable: one that is away may.
        """
        kept = await self.kept()
        for one in kept.evidence:
            if one.id == evidence:
                return one
        hint = "supercloud incident evidence ls shows which there is"
        if kept.away:
            away = ", ".join(one.blanket for one in kept.away)
            raise Unavailable(f"no blanket that answers has evidence {evidence}: {away} does not", hint=hint)
        raise NotFound(f"there is no evidence {evidence}", hint=hint)

    async def evidence_stream(self, incident: Id, evidence: Id, *, offset: int) -> Stream:
        """
        Raises:
            NotFound: either. InvalidInput: `offset` is beyond its end. Unavailable: its blanket is away.
        """
        row, _ = await self._of(incident, evidence)
        return await self._parts.streams.ask(
            row.blanket,
            lambda agent, name: agent.evidence.send(
                SendEvidence(stream=name, evidence=evidence, offset=offset)
            ),
        )

    async def remove_evidence(self, incident: Id, evidence: Id) -> None:
        """Who did is noted, beside what the blanket reports. Raises: NotFound, Unavailable."""
        row, piece = await self._of(incident, evidence)
        async with self._parts.store.read() as session:
            by = called(caller_of(session))
        await self._parts.agents.agent(row.blanket).evidence.remove(EvidenceRef(evidence=evidence))
        self._lists.forget(row.blanket)
        said = {"evidence": evidence, "incident": incident, "instance": piece.instance, "by": by}
        await inbox.finding(self._parts.store, row.blanket, row.cloud, REMOVED, said)

    # ------------------------------------------------------------ inside

    async def _of(self, incident: Id, evidence: Id) -> tuple[IncidentRow, EvidenceReport]:
        """The incident, and that evidence of it. Raises: NotFound, Unavailable."""
        async with self._parts.store.read() as session:
            row = await find_incident(session, incident)
        for one in [] if row.horizontal else await self._there(row):
            if one.evidence == evidence:
                return row, one
        raise NotFound(
            f"incident {incident} has no evidence {evidence}",
            hint=f"supercloud incident evidence ls {incident}",
        )

    async def _there(self, row: IncidentRow) -> list[EvidenceReport]:
        every = await self._parts.agents.agent(row.blanket).evidence.list()
        return [one for one in every if one.incident == row.own]

    async def _blankets(self, cloud: Ref | None, blanket: Ref | None) -> Sequence[Blanket]:
        """Which may keep something, by name."""
        told = select(IncidentRow.blanket)
        query = select(Blanket).where(Blanket.id.in_(told)).order_by(Blanket.name, Blanket.id)
        async with self._parts.store.read() as session:
            query = query.where(within(session, Blanket.cloud))
            if blanket is not None:
                query = query.where(Blanket.id == (await find_blanket(session, blanket, cloud)).id)
            elif cloud is not None and (clouds := await clouds_of(session, cloud)) is not None:
                query = query.where(Blanket.cloud.in_(clouds))
            return (await session.scalars(query)).all()

    async def _gathered(self, blankets: Sequence[Blanket]) -> KeptView:
        answers = await asyncio.gather(*(self._lists.of(one.id) for one in blankets))
        there: list[tuple[Id, EvidenceReport]] = []
        away: list[AwayView] = []
        for one, answer in zip(blankets, answers, strict=True):
            if isinstance(answer, str):
                away.append(AwayView(blanket=one.name, blanket_id=one.id, cloud_id=one.cloud, why=answer))
            else:
                there += [(one.id, each) for each in answer]
        return KeptView(evidence=tuple(await self._views(there)), away=tuple(away))

    async def _views(self, there: Sequence[tuple[Id, EvidenceReport]]) -> list[EvidenceView]:
        """By blanket, as the caller may see it: what is of an incident that is known. The newest first."""
        incidents = {id_of(blanket, one.incident) for blanket, one in there}
        async with self._parts.store.read() as session:
            found = await session.execute(
                select(IncidentRow, Blanket.name)
                .join(Blanket, Blanket.id == IncidentRow.blanket)
                .where(IncidentRow.id.in_(incidents), within(session, IncidentRow.cloud))
            )
            rows = {row.id: (row, blanket) for row, blanket in found}
            of = select(Instance).where(Instance.id.in_({one.instance for _, one in there}))
            names = {(one.id, one.cloud): one.name for one in await session.scalars(of)}
        shown = []
        for blanket, one in sorted(there, key=lambda each: (each[1].at, each[1].evidence), reverse=True):
            row = rows.get(id_of(blanket, one.incident))
            if row is not None:
                shown.append(_view(*row, one, names.get((one.instance, row[0].cloud))))
        return shown


def _view(row: IncidentRow, blanket: Name, one: EvidenceReport, name: Name | None) -> EvidenceView:
    return EvidenceView(
        id=one.evidence,
        incident=row.id,
        title=row.title,
        blanket=blanket,
        blanket_id=row.blanket,
        cloud_id=row.cloud,
        instance=one.instance,
        instance_name=name,
        at=one.at,
        size_bytes=one.size_bytes,
        memory_bytes=one.memory_bytes,
        whole=one.whole,
        digest=one.digest,
    )
