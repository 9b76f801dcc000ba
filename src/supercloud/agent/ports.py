"""The detector of what ports send: it listens at each, by what the overlay's record says is plugged."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from pathlib import Path
from typing import Any

from supercloud.agent.teller import Teller
from supercloud.blanket.overlay.plan import LINK_PREFIX, link_device
from supercloud.blanket.places import RECORDING
from supercloud.blanket.sniffer import Sniffer
from supercloud.model.names import Id
from supercloud.security.detectors import PORT, ports
from supercloud.security.recording import recorded

KNOWN = Path("/run/supercloud/overlay/known.json")
_LOOK_S = 1.0


async def watch_ports(teller: Teller, known: Path) -> None:
    """Until cancelled."""
    watch = recorded(ports.PortWatch(secrets.token_hex(8)), PORT, RECORDING)
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
        found = json.loads(known.read_bytes())
        away = _away(found)
        return [
            ports.Own(
                device=one["device"],
                mac=one["mac"],
                ip=one["ip"],
                away=away.get((one["instance"], one["network"])),
            )
            for one in found["ports"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # nothing is plugged yet, or another version of the agent says what this one cannot read


def _away(known: dict[str, Any]) -> dict[tuple[Id, Id], str]:
    """By which device instances are heard that hold their epoch in another blanket. One that moves has a port
    at both for a while."""
    peers = {one["blanket"]: one["vxlan_port"] for one in known["mesh"]["peers"]}
    return {
        (one["instance"], one["network"]): link_device(peers[one["blanket"]], one["network"])
        for one in known["locations"]
        if one["blanket"] in peers
    }
