"""What evidence is taken of, without an instance: a file in memory, and a hypervisor that says how it is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supercloud.agent.evidence import Evidence, EvidenceHands
from supercloud.agent.identity import Passport
from supercloud.agent.streams import StreamDialer
from supercloud.model.memory import Span
from supercloud.model.names import MIB, Id, new_id
from supercloud.model.reactions import Command
from supercloud.ports.agent import RunState
from supercloud.trust.keys import IdentityKey, SealingKey

SECRET = b"what a guest had in its memory "


class Memory:
    """Of 8 MiB, a part of which was written to."""

    parts = (Span(address=0, offset=0, length=8 * MIB),)

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("guest")
        self.executed = 5
        os.truncate(self.descriptor, 8 * MIB)
        os.pwrite(self.descriptor, SECRET * 3, 2 * MIB + 5)

    def executed_ns(self) -> int:
        return self.executed

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass
class Machine:
    """`stands`: by instance, as the hypervisor says; of all others it says that they are paused."""

    owner: SealingKey = field(default_factory=SealingKey.new)
    identity: IdentityKey = field(default_factory=IdentityKey.new)
    blanket: Id = field(default_factory=new_id)
    cloud: Id = field(default_factory=new_id)
    incident: Id = field(default_factory=new_id)
    stands: dict[Id, RunState] = field(default_factory=dict)
    sealed_to: str | None = ""

    async def state(self, instance: Id) -> RunState:
        return self.stands.get(instance, RunState.PAUSED)

    def memory(self, _: Id) -> Memory:
        return Memory()

    def known(self, _: Command) -> tuple[Id, Any]:
        return self.incident, {"incident": {"id": self.incident, "title": "Scan for open ports"}}

    def hands(self, **more: Any) -> EvidenceHands:
        made: dict[str, Any] = {
            "hypervisor": self,
            "memory": self.memory,
            "known": self.known,
            "owner_key": lambda: self.owner.public if self.sealed_to == "" else self.sealed_to,
            "identity": self.identity,
            "blanket": self.blanket,
            "cloud": self.cloud,
        }
        return EvidenceHands(**(made | more))


def kept_by(passport: Passport, folder: Path, dialer: StreamDialer, incident: Id) -> Evidence:
    """Of a blanket's double: as an agent would keep it, under the names that it joined with."""
    who = passport.identity
    machine = Machine(identity=passport.keys.identity, incident=incident)
    hands = machine.hands(owner_key=lambda: who.owner_key, blanket=who.blanket, cloud=who.cloud)
    return Evidence(hands, folder, dialer)
