"""The remote faces of the ports: a proxy on one end, handlers on the other, both from the port's own types.

A port method is `async def name(self, request: R) -> A` or `async def name(self) -> A`; its wire name is
`group.name`. Nothing is written twice, so a method added to a port is on the wire.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast, get_type_hints

from supercloud.ports.agent import (
    Agent,
    BlanketReport,
    InstancesAgent,
    MigrationAgent,
    StreamsAgent,
    UpgradeAgent,
    VolumesAgent,
)
from supercloud.ports.controller import Controller
from supercloud.ports.evidence import EvidenceAgent
from supercloud.ports.loop import LoopAgent
from supercloud.ports.machines import MachinesAgent
from supercloud.ports.overlay import OverlayAgent
from supercloud.ports.scans import ScansAgent
from supercloud.ports.tools import ToolsAgent
from supercloud.wire.rpc import Handler

T = TypeVar("T")

#: Seconds to wait for an answer. What is not here takes `_USUAL_S`.
_TIMEOUTS_S = {
    "volumes.place_image": 3600.0,
    "volumes.make": 120.0,
    "upgrade.place": 900.0,
    "instances.start": 180.0,
    "instances.stop": 300.0,
    "tools.open": 180.0,
    "machines.place": 3600.0,
    "machines.create": 300.0,
    "machines.start": 300.0,
    "machines.stop": 300.0,
    "machines.destroy": 120.0,
}
_USUAL_S = 60.0

_GROUPS: dict[str, type] = {
    "instances": InstancesAgent,
    "volumes": VolumesAgent,
    "overlay": OverlayAgent,
    "migration": MigrationAgent,
    "streams": StreamsAgent,
    "upgrade": UpgradeAgent,
    "tools": ToolsAgent,
    "machines": MachinesAgent,
    "loop": LoopAgent,
    "evidence": EvidenceAgent,
    "scans": ScansAgent,
}


@lru_cache(maxsize=32)
def _methods(port: type) -> dict[str, tuple[Any, Any]]:
    """Name -> (type of the value or None, type of the answer), from the protocol's annotations."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, method in inspect.getmembers(port, inspect.iscoroutinefunction):
        hints = get_type_hints(method, include_extras=True)
        gives = hints.pop("return")
        (takes,) = hints.values() or (None,)
        found[name] = (takes, gives)
    return found


class Caller(Protocol):
    """Who carries a call to the other end: a connection, or what finds one for each call."""

    async def call(
        self, method: str, value: object, takes: Any, gives: type[T], *, timeout_s: float
    ) -> T: ...


class _Remote:
    """A port's methods, each made when it is asked for: a control plane has all of them for each of thousands
    of agents."""

    __slots__ = ("_group", "_peer", "_port")

    def __init__(self, port: type, group: str, peer: Caller) -> None:
        self._port = port
        self._group = group
        self._peer = peer

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        found = _methods(self._port).get(name)
        if found is None:
            raise AttributeError(f"{self._port.__name__} has no {name}")
        takes, gives = found
        wire_name = f"{self._group}.{name}"
        timeout_s = _TIMEOUTS_S.get(wire_name, _USUAL_S)

        async def ask(request: object = None) -> Any:
            return await self._peer.call(wire_name, request, takes, gives, timeout_s=timeout_s)

        return ask


def remote(port: type, group: str, peer: Caller) -> Any:
    """An object with the port's methods, each of which asks the other end."""
    return _Remote(port, group, peer)


def handlers(port: type, group: str, implementation: object) -> dict[str, Handler]:
    return {
        f"{group}.{name}": Handler(takes, gives, getattr(implementation, name))
        for name, (takes, gives) in _methods(port).items()
    }


class RemoteAgent:
    """ports.agent.Agent over a connection."""

    def __init__(self, peer: Caller) -> None:
        self._peer = peer
        self.instances = cast(InstancesAgent, remote(InstancesAgent, "instances", peer))
        self.volumes = cast(VolumesAgent, remote(VolumesAgent, "volumes", peer))
        self.overlay = cast(OverlayAgent, remote(OverlayAgent, "overlay", peer))
        self.migration = cast(MigrationAgent, remote(MigrationAgent, "migration", peer))
        self.streams = cast(StreamsAgent, remote(StreamsAgent, "streams", peer))
        self.upgrade = cast(UpgradeAgent, remote(UpgradeAgent, "upgrade", peer))
        self.tools = cast(ToolsAgent, remote(ToolsAgent, "tools", peer))
        self.machines = cast(MachinesAgent, remote(MachinesAgent, "machines", peer))
        self.loop = cast(LoopAgent, remote(LoopAgent, "loop", peer))
        self.evidence = cast(EvidenceAgent, remote(EvidenceAgent, "evidence", peer))
        self.scans = cast(ScansAgent, remote(ScansAgent, "scans", peer))

    async def report(self) -> BlanketReport:
        return await self._peer.call("agent.report", None, None, BlanketReport, timeout_s=_USUAL_S)


def agent_handlers(agent: Agent) -> dict[str, Handler]:
    """What the agent's end of the connection answers."""
    found = {"agent.report": Handler(None, BlanketReport, agent.report)}
    for group, port in _GROUPS.items():
        if (part := getattr(agent, group, None)) is not None:  # what it lacks is refused as unknown
            found |= handlers(port, group, part)
    return found


def remote_controller(peer: Caller) -> Controller:
    """ports.controller.Controller over a connection."""
    return cast(Controller, remote(Controller, "controller", peer))


def controller_handlers(controller: Controller) -> dict[str, Handler]:
    """What the control plane's end of the connection answers."""
    return handlers(Controller, "controller", controller)
