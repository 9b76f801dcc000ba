"""Evidence of an incident: where its blanket has it, for whoever has the blanket's cloud.

The control plane passes it on and can open none of it. The blanket is asked each time which there is: what
is shown here is there.
"""

from __future__ import annotations

from supercloud.model.errors import NotFound
from supercloud.model.names import Id
from supercloud.ports.evidence import EvidenceRef, EvidenceReport, SendEvidence
from supercloud.services.incident_views import EvidenceView
from supercloud.services.incidents import find_incident
from supercloud.services.northbound import Stream
from supercloud.services.parts import Parts
from supercloud.services.store.security import IncidentRow
from supercloud.services.store.tables import Instance


class Evidences:
    """The part of Northbound about evidence."""

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
        found = await self._there(row)
        async with self._parts.store.read() as session:
            names = {}
            for one in {one.instance for one in found}:
                instance = await session.get(Instance, one)
                if instance is not None and instance.cloud == row.cloud:
                    names[one] = instance.name
        return [_view(row, one, names.get(one.instance)) for one in found]

    async def evidence_stream(self, incident: Id, evidence: Id, *, offset: int) -> Stream:
        """
        Raises:
            NotFound: either. InvalidInput: `offset` is beyond its end. Unavailable: its blanket is away.
        """
        row = await self._of(incident, evidence)
        return await self._parts.streams.ask(
            row.blanket,
            lambda agent, name: agent.evidence.send(
                SendEvidence(stream=name, evidence=evidence, offset=offset)
            ),
        )

    async def remove_evidence(self, incident: Id, evidence: Id) -> None:
        """Raises: NotFound, Unavailable."""
        row = await self._of(incident, evidence)
        await self._parts.agents.agent(row.blanket).evidence.remove(EvidenceRef(evidence=evidence))

    async def _of(self, incident: Id, evidence: Id) -> IncidentRow:
        """The incident, if that is evidence of it. Raises: NotFound, Unavailable."""
        async with self._parts.store.read() as session:
            row = await find_incident(session, incident)
        if row.horizontal or all(one.evidence != evidence for one in await self._there(row)):
            raise NotFound(
                f"incident {incident} has no evidence {evidence}",
                hint=f"supercloud incident evidence ls {incident}",
            )
        return row

    async def _there(self, row: IncidentRow) -> list[EvidenceReport]:
        every = await self._parts.agents.agent(row.blanket).evidence.list()
        return [one for one in every if one.incident == row.own]


def _view(row: IncidentRow, one: EvidenceReport, name: str | None) -> EvidenceView:
    return EvidenceView(
        id=one.evidence,
        incident=row.id,
        blanket_id=row.blanket,
        cloud_id=row.cloud,
        instance=one.instance,
        instance_name=name,
        at=one.at,
        size_bytes=one.size_bytes,
        memory_bytes=one.memory_bytes,
        whole=one.whole,
    )
