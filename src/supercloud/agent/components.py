"""The detector of this blanket's own parts: it reads what their supervisor says of each."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from supercloud.agent.teller import Teller
from supercloud.blanket.places import RECORDING
from supercloud.model.names import Name
from supercloud.security.detectors import COMPONENTS, components
from supercloud.security.recording import recorded

SERVICES = Path("/etc/service")
_LOOK_S = 1.0


async def watch_components(teller: Teller, services: Path) -> None:
    """Until cancelled."""
    watch = recorded(components.Components(secrets.token_hex(8)), COMPONENTS, RECORDING)
    while True:
        teller.tell(watch.look(statuses(services), time.time()))
        await asyncio.sleep(_LOOK_S)


def statuses(services: Path) -> Mapping[Name, components.Status]:
    found: dict[Name, components.Status] = {}
    for one in sorted(services.glob("*/supervise/status")):
        try:
            status = components.parsed(one.read_bytes())
        except OSError:
            continue
        if status is not None:
            found[one.parts[-3]] = replace(status, asked=_asked(one.parents[1] / "ended"))
    return found


def _asked(ended: Path) -> bool:
    """What the service's `finish` kept of its last end, which comes before its next process."""
    try:
        return components.was_asked(ended.read_bytes())
    except OSError:
        return False
