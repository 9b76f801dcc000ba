"""Of `bench containment`: a blanket's loop and the cloud's horizontal one, with a simulated clock."""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from supercloud.model.errors import Refused
from supercloud.model.findings import Layer, Object, ObjectKind
from supercloud.model.incidents import Incident
from supercloud.model.names import Id, Ipv4
from supercloud.model.reactions import LASTING, Command, Deed
from supercloud.security import usual
from supercloud.security.detectors import PORT
from supercloud.security.engine import Action, Doing, Engine
from supercloud.security.events import Event, Stand
from supercloud.security.horizontal import (
    OPEN,
    TAKES,
    ByWhatIsShared,
    Known,
    Own,
    Place,
    sightings,
    targets,
)
from supercloud.security.policy import NOTHING, PolicyFile
from supercloud.security.rules import Rules

if TYPE_CHECKING:
    from supercloud.model.findings import Finding

CLOUD = str(uuid.UUID(int=1))
NET = "10.64.0.0/16"
_FIRST = int(ipaddress.IPv4Address("10.64.0.0"))
_PORT = 80  # which the worm is about


def _policy(**named: dict[str, Any]) -> PolicyFile:
    return PolicyFile.model_validate_json(json.dumps({"version": 1, "policies": named}))


#: In each blanket: what sweeps is contained. With the bounds that examples/security has, which keep a rule
#: that is wrong from doing more harm than a worm.
VERTICAL = _policy(
    contain={
        "when": {"rule": "address-sweep"},
        "do": [{"action": "contain", "target": "device", "for": "10m"}],
        "bounds": {"objects": 3, "perHour": 20},
    }
)
#: Over all of them: what sweeps is met at the others, and contained where it is if nobody did.
HORIZONTAL = _policy(
    meet={
        "when": {"rule": "address-sweep"},
        "do": [
            {"action": "deny", "target": "ipv4_net", "net": "$source", "for": "10m"},
            {"action": "contain", "target": "device", "for": "10m"},
        ],
        "bounds": {"objects": 500, "perHour": 500, "share": 0.05},
    }
)


class World(Protocol):
    now: float

    @property
    def react_s(self) -> float: ...
    @property
    def tell_s(self) -> float: ...
    @property
    def order_s(self) -> float: ...
    @property
    def control(self) -> Control: ...
    def later(self, seconds: float, what: Callable[[], None]) -> None: ...
    def own(self, instance: Id) -> Own | None: ...


@dataclass(eq=False, slots=True)
class Address:
    """An instance."""

    instance: Id
    number: int
    side: Side
    vulnerable: bool
    infected: bool = False

    @property
    def net(self) -> Ipv4:
        return address(self.number)


def address(number: int) -> Ipv4:
    return str(ipaddress.IPv4Address(_FIRST + number))


class Side:
    """A blanket: its rules, its engine, its port filter, and what it tells. `policy` None: it only tells."""

    def __init__(self, place: Place, policy: PolicyFile | None, world: World, *, watches: bool) -> None:
        self.place = place
        self.holds: dict[Id, Address] = {}
        self.contained = 0
        self._world = world
        self._rules = Rules(usual.RULES) if watches else None
        self._engine = Engine(policy or NOTHING, takes=LASTING)
        self._closed: dict[Id, float] = {}  # until when, as are the next
        self._denied: dict[Ipv4, float] = {}
        self._told: dict[Id, Incident] = {}
        self._telling = False
        self._events = 0
        self._stand = Stand(
            detector=PORT,
            layer=Layer.L2,
            domain=place.blanket,
            cloud=CLOUD,
            objects=lambda _: None,
            proves=True,
        )

    def closed_until(self, instance: Id) -> float:
        return self._closed.get(instance, 0.0)

    def denies(self, net: Ipv4) -> bool:
        return self._denied.get(net, 0.0) > self._world.now

    def ordered(self, command: Command) -> None:
        """By the horizontal loop."""
        if command.deed is Deed.DENY:
            self._denied[command.net or ""] = command.until or 0.0
        else:
            self._closed[command.about.id] = command.until or 0.0

    # ------------------------------------------------------------ the loop

    def sees(self, one: Address, number: int) -> None:
        """A connection that begins at an instance's port, whether or not it gets anywhere."""
        if self._rules is None:
            return
        self._events += 1
        now = self._world.now
        event = Event(
            uid=str(self._events),
            source="firewall",
            at=now,
            stand=self._stand,
            about=Object(kind=ObjectKind.INSTANCE, id=one.instance),
            fields={
                "src_ip": one.net,
                "dst_ip": address(number),
                "dst_port": _PORT,
                "object": one.instance,
                "layer": "L2",
            },
        )
        for match in self._rules.see(event):
            self._take(match.finding(now))

    def _take(self, finding: Finding) -> None:
        _, actions = self._engine.take(finding, self._world.now)
        for action in actions:
            self._world.later(self._world.react_s + action.after, partial(self._act, action))
        if not self._telling:
            self._telling = True
            self._world.later(self._world.tell_s, self._tell)

    def _act(self, action: Action) -> None:
        """Whatever is decided here closes or opens a port."""
        if not self._engine.wanted(action):
            return
        name, command, now = action.reaction.id, action.reaction.command, self._world.now
        match action.doing:
            case Doing.DO:
                self._closed[command.about.id] = command.until or 0.0
                self.contained += 1
                more = self._engine.did(name, now, None)
            case Doing.UNDO:
                self._closed.pop(command.about.id, None)
                more = self._engine.undid(name, now, None)
            case Doing.LOOK:
                more = self._engine.looked(name, now, there=self.closed_until(command.about.id) > now)
        for one in more:
            self._act(one)

    def _tell(self) -> None:
        self._telling = False
        for name, incident in self._engine.incidents.items():
            before = self._told.get(name)
            if before is None or before.version < incident.version:
                self._told[name] = incident
                self._world.control.told(incident, before, self)


class Control:
    """The cloud's horizontal loop. `policy` None: there is none."""

    def __init__(self, policy: PolicyFile | None, places: Collection[Place], world: World) -> None:
        self.denied = 0
        self._world = world
        self._places = list(places)
        self._sides: dict[Id, Side] = {}
        self._engine = (
            None if policy is None else Engine(policy, takes=TAKES, joining=ByWhatIsShared(), most=OPEN)
        )

    def told(self, incident: Incident, before: Incident | None, side: Side) -> None:
        if self._engine is None:
            return
        held = {name: (one.net,) for name, one in side.holds.items()}
        for finding in sightings(incident, before, side.place, held):
            _, actions = self._engine.take(finding, self._world.now)
            self._carry(actions)

    def _carry(self, actions: Iterable[Action]) -> None:
        assert self._engine is not None  # noqa: S101 - asked by the callers
        for action in actions:
            name, now = action.reaction.id, self._world.now
            match action.doing:
                case Doing.DO:
                    self._carry(self._ordered(action))
                case Doing.UNDO:
                    self._carry(self._engine.undid(name, now, None))
                case Doing.LOOK:
                    self._engine.looked(name, now, there=True)

    def _ordered(self, action: Action) -> list[Action]:
        assert self._engine is not None  # noqa: S101 - asked by the callers
        command, now = action.reaction.command, self._world.now
        own = self._world.own(command.about.id)
        known = Known(cloud=CLOUD, places=self._places, nets=(NET,), named=() if own is None else (own,))
        try:
            found = targets(command, known)
        except Refused as error:
            return self._engine.did(action.reaction.id, now, error.message)
        self.denied += command.deed is Deed.DENY
        self._world.later(self._world.order_s, lambda: self._met(found))
        return self._engine.did(action.reaction.id, now, None)

    def _met(self, found: Iterable[Any]) -> None:
        for one in found:
            self._sides[one.place.blanket].ordered(one.command)

    def knows(self, sides: Iterable[Side]) -> None:
        self._sides = {one.place.blanket: one for one in sides}
