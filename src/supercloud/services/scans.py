"""Scans of an instance's memory that a user asks for: its blanket does them, and tells how they ended."""

from __future__ import annotations

from supercloud.model.errors import Conflict
from supercloud.model.names import new_id
from supercloud.ports.scans import ASKED, ScanMemory
from supercloud.services import inbox
from supercloud.services.parts import Parts
from supercloud.services.refs import called, caller_of, find_instance
from supercloud.services.requests import Ref
from supercloud.services.views import ScanView


class Scans:
    """The part of Northbound about scans."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def scan_instance(self, ref: Ref, *, cloud: Ref | None = None) -> ScanView:
        """
        Raises:
            Conflict: it is nowhere, or is being scanned. Refused: its blanket has no rules. Unavailable: its
                blanket is away. NotFound: the instance, or its process.
        """
        async with self._parts.store.read() as session:
            row = await find_instance(session, ref, cloud)
            caller = caller_of(session)
        if row.blanket is None:
            raise Conflict(f"instance {row.name} has never run", hint=f"supercloud vm start {row.name}")
        scan = new_id()
        await self._parts.agents.agent(row.blanket).scans.begin(ScanMemory(scan=scan, instance=row.id))
        said = {"instance": row.id, "scan": scan, "by": called(caller)}
        await inbox.finding(self._parts.store, row.blanket, row.cloud, ASKED, said)
        return ScanView(scan=scan, instance=row.id, blanket_id=row.blanket)
