"""The connection to libvirtd, over a double of its bindings: what the real ones refuse, it refuses."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest

from supercloud.blanket.libvirt.connection import Connection

pytestmark = pytest.mark.unit


class _Error(Exception):
    """libvirt's."""


class _Domain:
    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name


class _Handle:
    def __init__(self) -> None:
        self.hears: dict[int, Any] = {}

    def setKeepAlive(self, _interval: int, _count: int) -> None: ...  # noqa: N802 - libvirt's names

    def registerCloseCallback(self, _hear: object, _opaque: object) -> None: ...  # noqa: N802

    def unregisterCloseCallback(self) -> None: ...  # noqa: N802

    def close(self) -> None: ...

    def domainEventRegisterAny(self, _domain: object, kind: int, hear: Any, opaque: object) -> int:  # noqa: N802
        if kind in self.hears:
            raise _Error("invalid argument: event callback already tracked")
        self.hears[kind] = lambda *told: hear(self, *told, opaque)
        return kind


async def test_all_who_want_hear_of_a_domains_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt takes one listener of a kind in a connection (seen with 9.0)."""
    bindings: Any = ModuleType("libvirt")
    handle = _Handle()
    bindings.libvirtError, bindings.VIR_DOMAIN_EVENT_ID_LIFECYCLE = _Error, 0
    bindings.open = lambda _uri: handle
    bindings.registerErrorHandler = lambda *_: None
    monkeypatch.setitem(sys.modules, "libvirt", bindings)
    monkeypatch.setattr("supercloud.blanket.libvirt.connection._run_event_loop", lambda: None)
    heard: list[tuple[str, str, int, int]] = []
    async with asyncio.timeout(10), Connection() as connection:
        connection.on_lifecycle(lambda *told: heard.append(("instances", *told)))
        connection.on_lifecycle(lambda *told: heard.append(("machines", *told)))
        await connection.call(lambda _: None)
        handle.hears[0](_Domain("scm-1"), 5, 1)
    assert heard == [("instances", "scm-1", 5, 1), ("machines", "scm-1", 5, 1)]
