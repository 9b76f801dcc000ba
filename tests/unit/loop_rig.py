"""An engine, an actuator and a clock of ours, and what is found and decided."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from supercloud.model.errors import SupercloudError
from supercloud.model.findings import Finding, Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import Incident
from supercloud.model.reactions import LASTING, Command, ReactionState
from supercloud.security.engine import Action, Doing, Engine
from supercloud.security.policy import PolicyFile
from supercloud.security.simulated import SimulatedActuator

DOMAIN, CLOUD = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
MACHINE = Object(kind=ObjectKind.MACHINE, id=str(uuid.UUID(int=3)))


def instance(number: int) -> Object:
    return Object(kind=ObjectKind.INSTANCE, id=str(uuid.UUID(int=100 + number)))


def finding(
    number: int = 0,
    *,
    about: Object | None = None,
    rule: str = "scan",
    at: float = 0.0,
    severity: Severity = Severity.HIGH,
    layer: Layer = Layer.L2,
    source: str | None = None,
    proven: bool = True,
) -> Finding:
    evidence = {"src_endpoint": {"ip": source}, "data": {"proven": proven}} if source else {}
    return Finding(
        id=str(uuid.UUID(int=10_000 + number)),
        layer=layer,
        domain=DOMAIN,
        cloud=CLOUD,
        object=about or instance(0),
        severity=severity,
        title=f"a {rule}",
        rule=rule,
        at=at,
        received_at=at,
        evidence=(evidence,) if evidence else (),
    )


def policies(**named: dict[str, Any]) -> PolicyFile:
    content = {"version": 1, "policies": {name.replace("_", "-"): one for name, one in named.items()}}
    return PolicyFile.model_validate_json(json.dumps(content))


CONTAIN = {"action": "contain", "target": "device", "for": "10m"}
DENY = {"action": "deny", "target": "ipv4_net", "net": "$source", "for": "10m"}
PAUSE = {"action": "stop", "target": "vcpus", "for": "10m"}


def slow(kbytes: int) -> dict[str, Any]:
    return {"action": "set", "target": "rate", "kbytes": kbytes, "for": "10m"}


class Driven:
    """An engine and an actuator, whose clock is ours. What is to be done is done at once."""

    def __init__(
        self, policy: PolicyFile, *, within: Callable[[Object], Object | None] | None = None
    ) -> None:
        self.now = 1000.0
        self.actuator = SimulatedActuator(now=lambda: self.now)
        self.engine = Engine(policy, takes=LASTING, **({"within": within} if within else {}))

    def take(self, one: Finding) -> Incident:
        incident, actions = self.engine.take(replace(one, at=self.now), self.now)
        self.run(actions)
        return self.engine.incidents[incident.id]

    def run(self, actions: list[Action]) -> None:
        for action in actions:
            name, command = action.reaction.id, action.reaction.command
            match action.doing:
                case Doing.DO:
                    self.run(self.engine.did(name, self.now, tried(self.actuator.done, command)))
                case Doing.UNDO:
                    self.run(self.engine.undid(name, self.now, tried(self.actuator.take_back, command)))
                case Doing.LOOK:
                    self.run(self.engine.looked(name, self.now, self.actuator.seen(command)))

    def pass_(self, seconds: float) -> None:
        """In the steps in which something is due."""
        end = self.now + seconds
        while (due := self.engine.next_due()) is not None and due <= end:
            self.now = max(self.now, due)
            self.run(self.engine.tick(self.now))
        self.now = end
        self.run(self.engine.tick(self.now))

    def states(self) -> Counter[ReactionState]:
        return Counter(one.state for one in self.engine.book)

    def whys(self) -> list[str]:
        return [one.why for one in self.engine.book]


def tried(call: Callable[[Command], None], command: Command) -> str | None:
    """What went wrong, if anything did."""
    try:
        call(command)
    except SupercloudError as error:
        return error.message
    return None
