"""What is in force about the instance, in a run that is about that: a blanket told it once, and nothing boots
without it, whatever befalls whom.

Blankets have no loop here. What one is given as an instance starts is in force there until it reboots.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from supercloud.agent.agent import BlanketAgent
from supercloud.agent.loop import KIND, told
from supercloud.model.findings import Object, ObjectKind, Severity
from supercloud.model.incidents import Incident, IncidentState
from supercloud.model.names import Id, new_id
from supercloud.model.reactions import LONGEST_S, Command, Deed, Reaction, ReactionState
from supercloud.ports.agent import BlanketReport
from supercloud.ports.controller import Event
from supercloud.ports.loop import Guard
from supercloud.services import inbox

if TYPE_CHECKING:
    from supercloud.simulator.blanket import SimBlanket
    from supercloud.simulator.world import SimWorld


class SimGuards:
    """agent.guard.Guards, as far as a start needs it."""

    def __init__(self, blanket: SimBlanket) -> None:
        self._blanket = blanket

    async def stand(self, instance: Id, guard: Guard | None) -> None:
        await self._blanket.trace.step("loop", "stand")
        held = () if guard is None else guard.held
        self._blanket.guarded.setdefault(instance, set()).update(
            of.id for one in held for of in one.reactions
        )


def guarding(agent: BlanketAgent, blanket: SimBlanket) -> None:
    """From now on the agent heeds what is in force about what it starts."""
    report = agent.report

    async def heeds() -> BlanketReport:
        return replace(await report(), guards_starts=True)

    agent.report = heeds  # type: ignore[method-assign]
    agent.instances._guards = SimGuards(blanket)  # type: ignore[assignment]


async def contain(world: SimWorld, blanket: SimBlanket) -> None:
    """The blanket tells that it has contained the instance; its kernel is as if it had rebooted since."""
    instance = Object(kind=ObjectKind.INSTANCE, id=world.instance)
    now, own = time.time(), new_id()
    incident = Incident(
        id=own,
        domain=blanket.id,
        cloud=blanket.cloud,
        state=IncidentState.CONTAINED,
        severity=Severity.HIGH,
        title="Scan for open ports",
        opened_at=now,
        last_at=now,
        objects=(instance,),
        seen=(),
        findings=1,
    )
    done = Reaction(
        command=Command(id=new_id(), deed=Deed.CONTAIN, about=instance, until=now + LONGEST_S),
        incident=own,
        finding=new_id(),
        rule="port-scan",
        policy="contain",
        step=0,
        rank=(0, 0, 0),
        state=ReactionState.VERIFIED,
        decided_at=now,
        done_at=now,
    )
    event = Event(id=new_id(), seq=1, kind=KIND, at=now, data=told(incident, [done]))
    await world.controller.ask(
        lambda _: inbox.take(world.controller.parts.store, blanket.id, blanket.cloud, [event], at=now)
    )
