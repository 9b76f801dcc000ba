"""The detector of what ports send: it listens at each, by what the overlay's record says is plugged."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from pathlib import Path

from supercloud.agent.teller import Teller
from supercloud.blanket.overlay.plan import LINK_PREFIX
from supercloud.blanket.sniffer import Sniffer
from supercloud.security.detectors import ports

KNOWN = Path("/run/supercloud/overlay/known.json")
_LOOK_S = 1.0


async def watch_ports(teller: Teller, known: Path) -> None:
    """Until cancelled."""
    watch = ports.PortWatch(secrets.token_hex(8))
    sniffer = Sniffer()

    def heard(device: str, frame: bytes) -> None:
        if device in watch.devices:
            teller.tell(watch.sent(device, frame, time.time()))
        elif device.startswith(LINK_PREFIX):
            teller.tell(watch.received(device, frame, time.time()))

    sniffer.listen(heard)
    seen: int | None = None
    try:
        while True:
            now = _changed(known)
            if now != seen:
                seen = now
                watch.plugged(plugged(known))
            await asyncio.sleep(_LOOK_S)
    finally:
        sniffer.close()


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def plugged(known: Path) -> list[ports.Own]:
    """By the overlay's record, which the agent keeps for itself: read as it is, by a process that so needs
    no pydantic."""
    try:
        found = json.loads(known.read_bytes())["ports"]
        return [ports.Own(device=one["device"], mac=one["mac"], ip=one["ip"]) for one in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # nothing is plugged yet, or another version of the agent says what this one cannot read
