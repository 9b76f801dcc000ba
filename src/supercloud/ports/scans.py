"""Scans of instances' memory by YARA's rules that somebody asks for: what a blanket's agent does for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from supercloud.model.names import Id

#: What an agent reports of one that was asked for, once it has ended: `instance`, `scan`, `matched` (how many
#: rules), and `why`, if it failed.
SCANNED: Final = "memory.scanned"
#: What the control plane notes beside it as one is asked for: `instance`, `scan`, and `by` whom.
ASKED: Final = "memory.scan-asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanMemory:
    """`scan`: its id, by which the same again is the same scan."""

    scan: Id
    instance: Id


class ScansAgent(Protocol):
    """A group that an agent may lack: one that scans no memory, or older than this."""

    async def begin(self, request: ScanMemory) -> None:
        """It is the guest's turn as soon as whoever scans is free; what matches becomes findings.

        Raises: Refused (there are no rules), NotFound (it has no process here), Conflict (a scan of it was
        asked for already, and has not ended).
        """
        ...
