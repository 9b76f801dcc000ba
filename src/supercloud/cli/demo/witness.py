"""Runs the independent observer in a thread of its own, beside the synchronous scenario."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from supercloud.model.names import Id
from supercloud.observer.collect import Observer
from supercloud.observer.timeline import Copies, Fact


class Witness:
    """Watches every QEMU of every blanket until it is left. Context manager."""

    def __init__(self, ports: Mapping[Id, Path]) -> None:
        self._observer = Observer(ports)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Witness:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._observer.__aenter__(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._observer.__aexit__(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def copies(self) -> list[Copies]:
        """Of each instance, how many copies ran at once so far."""
        return self._observer.copies()

    def facts(self) -> list[Fact]:
        """All that the QEMUs said so far."""
        return self._observer.facts()

    def running(self, instance: Id) -> frozenset[Id]:
        """The blankets whose QEMU of `instance` runs now, by its own word."""
        last: dict[Id, Fact] = {}
        for fact in self._observer.facts():
            if fact.instance == instance:
                last[fact.blanket] = fact
        return frozenset(blanket for blanket, fact in last.items() if fact.running)
