"""What the client inside the cloud saw, read from its console's log."""

from __future__ import annotations

import json
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from supercloud.client import Client

_MARK = "demo-client "


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One line of the client: counts since its start; the gap is since its previous line."""

    start: float  # by the guest's wall clock, as `at`
    sent: int
    answered: int
    lost: int
    wrong: int
    connections: int
    max_gap_ms: int
    at: float


def console_log(client: Client, instance: str) -> str:
    """All that an instance's console said and its blanket kept."""
    parts: list[bytes] = []
    with connect(**client.stream(f"/instances/{instance}/streams/log"), max_size=1 << 20) as stream:
        try:
            while True:
                data = stream.recv()
                parts.append(data if isinstance(data, bytes) else data.encode())
        except ConnectionClosed:
            return b"".join(parts).decode(errors="replace")


def seen(log: str) -> list[Seen]:
    """The client's lines in a console log, since it was started last; a line that was cut is left out."""
    found = []
    for line in log.splitlines():
        _, mark, text = line.partition(_MARK)
        if mark:
            try:
                found.append(Seen(**json.loads(text)))
            except (ValueError, TypeError):
                continue
    return [line for line in found if line.start == found[-1].start]
