"""An incident as a blanket's agent tells it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from supercloud.agent.loop import KIND, told
from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import Entry, EntryKind, Incident, IncidentState, Seen
from supercloud.model.names import Id, new_id
from supercloud.model.reactions import Command, Deed, Reaction, ReactionState
from supercloud.ports.controller import Event
from supercloud.ports.loop import Held
from supercloud.wire.codec import from_json


def held(instance: Id, *, cloud: Id, blanket: Id, deed: Deed = Deed.CONTAIN) -> Held:
    """What a blanket's loop does about an instance."""
    event = incident_event(new_id(), cloud=cloud, blanket=blanket, instance=instance)
    reactions = tuple(from_json(Reaction, one) for one in event.data["reactions"])
    done = tuple(replace(one, command=replace(one.command, deed=deed)) for one in reactions)
    return Held(incident=from_json(Incident, event.data["incident"]), reactions=done)


def incident_event(
    own: Id,
    *,
    cloud: Id,
    blanket: Id,
    version: int = 1,
    instance: Id | None = None,
    reaction: ReactionState = ReactionState.VERIFIED,
    **more: Any,
) -> Event:
    """With one reaction, to an instance: one that is there, or by default one that is its own only."""
    about, now = Object(kind=ObjectKind.INSTANCE, id=instance or new_id()), time.time()
    values: dict[str, Any] = {
        "state": IncidentState.CONTAINED,
        "title": "Scan for open ports",
        "last_at": now,
        "closed_at": None,
        "timeline": (
            Entry(at=now, kind=EntryKind.FINDING, says="high: Scan for open ports", layer=Layer.L2),
        ),
    } | more
    incident = Incident(
        id=own,
        domain=blanket,
        cloud=cloud,
        severity=Severity.HIGH,
        opened_at=now - 5,
        objects=(about,),
        seen=(Seen(rule="port-scan", layer=Layer.L2, object=about, first=now - 5, last=now, many=3),),
        findings=3,
        version=version,
        **values,
    )
    made = Reaction(
        command=Command(id=new_id(), deed=Deed.CONTAIN, about=about, until=now + 600),
        incident=own,
        finding=new_id(),
        rule="port-scan",
        policy="contain",
        step=0,
        rank=(100, 4, 0),
        state=reaction,
        why="its effect is there, and it was quiet",
        decided_at=now,
        done_at=now,
    )
    data = told(incident, [made])
    return Event(id=new_id(), seq=1, kind=KIND, at=now, data=data)
