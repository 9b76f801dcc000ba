"""Indicators that others share, on their way into a cloud's horizontal loop."""

from __future__ import annotations

from typing import Any

from supercloud.model.errors import Conflict
from supercloud.model.findings import Finding
from supercloud.model.incidents import ExportFormat, Incident
from supercloud.model.names import Id, new_id
from supercloud.model.reactions import Reaction
from supercloud.security import exports, stix
from supercloud.security.horizontal import shared
from supercloud.services import policy_rows
from supercloud.services.incident_views import ImportedView, ImportIndicators, UnusedView
from supercloud.services.incidents import find_incident
from supercloud.services.parts import Parts
from supercloud.services.refs import find_cloud
from supercloud.services.requests import Ref
from supercloud.services.store.security import SightingRow
from supercloud.services.store.time import wall
from supercloud.wire.codec import from_json, to_json


class Indicators:
    """The part of Northbound about what is shared of incidents."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def import_indicators(self, cloud: Ref, request: ImportIndicators) -> ImportedView:
        """
        Raises:
            InvalidInput: it is no bundle.
            Conflict: nothing would look at them.
        """
        async with self._parts.store.write() as session:
            row = await find_cloud(session, cloud)
            now = await wall(session)
            found, unused = stix.read(request.bundle, now=now)
            if await policy_rows.horizontal(session, row.id) is None:
                raise Conflict(
                    f"cloud {row.name} has no horizontal policy, which alone would look at them",
                    hint=f"supercloud policy set FILE --cloud {row.name} --horizontal",
                )
            for one in found:
                said = to_json(Finding, shared(one, row.id, now=now))
                session.add(
                    SightingRow(id=new_id(), cloud=row.id, blanket="", relation=None, finding=said, at=now)
                )
        self._parts.horizontal.changed()
        return ImportedView(
            addresses=tuple(one.address for one in found),
            unused=tuple(UnusedView(id=one.id, why=one.why) for one in unused),
        )

    async def export_incident(self, incident: Id, *, format_: ExportFormat) -> dict[str, Any]:
        async with self._parts.store.read() as session:
            row = await find_incident(session, incident)
            said = from_json(Incident, row.said["incident"])
            if format_ is ExportFormat.STIX:
                return exports.stix(said, cloud=row.cloud)
            reactions = [from_json(Reaction, one) for one in row.said.get("reactions") or ()]
            return exports.ocsf(said, reactions)
