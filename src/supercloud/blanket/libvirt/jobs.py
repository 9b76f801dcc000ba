"""Domains' jobs that end: libvirt tells each connection once, so whoever wants to know asks here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.model.names import Id

#: Hears of an instance and its ended job's statistics.
Hear = Callable[[Id, dict[str, Any]], None]


class JobEvents:
    """Tells every listener, on the event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listeners: list[Hear] = []
        connection.on_open(self._listen)

    def tell(self, hear: Hear) -> None:
        self._listeners.append(hear)

    def _listen(self, handle: Handle) -> None:
        libvirt = bindings()
        handle.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._job_over, None)

    def _job_over(self, _handle: Handle, found: Handle, stats: dict[str, Any], _opaque: object) -> None:
        instance = found.name().removeprefix("sc-")

        def deliver() -> None:
            for hear in self._listeners:
                hear(instance, stats)

        self._connection.loop.call_soon_threadsafe(deliver)
