"""How states look: five tones, each with a mark of its own, so that none is told by its colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from supercloud.model.acts import ActState
from supercloud.model.domains import WindowState
from supercloud.model.findings import Severity
from supercloud.model.incidents import IncidentState
from supercloud.model.orders import OrderState
from supercloud.model.reactions import ReactionState
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.model.trust import TrustState


class Tone(StrEnum):
    GOOD = "good"
    BUSY = "busy"
    WARN = "warn"
    BAD = "bad"
    OFF = "off"


_I, _B, _O = InstanceState, BlanketState, OperationState
#: By life cycle: a running instance is well, a running operation is busy. What is not here is off.
_TONES: Mapping[type[StrEnum], Mapping[str, Tone]] = {
    _I: {
        _I.RUNNING: Tone.GOOD,
        **dict.fromkeys((_I.CREATED, _I.PREPARING, _I.STARTING, _I.MIGRATING, _I.STOPPING), Tone.BUSY),
        _I.PAUSED: Tone.WARN,
        **dict.fromkeys((_I.FENCED, _I.FAILED), Tone.BAD),
    },
    _B: {
        _B.READY: Tone.GOOD,
        **dict.fromkeys((_B.CREATED, _B.BOOTING), Tone.BUSY),
        _B.UNREACHABLE: Tone.WARN,
        **dict.fromkeys((_B.REVOKED, _B.FAILED), Tone.BAD),
    },
    _O: {
        _O.SUCCEEDED: Tone.GOOD,
        **dict.fromkeys((_O.PENDING, _O.RUNNING, _O.CANCELLING), Tone.BUSY),
        _O.FAILED: Tone.BAD,
    },
    TrustState: {TrustState.ACTIVE: Tone.GOOD},
    Severity: {
        **dict.fromkeys((Severity.FATAL, Severity.CRITICAL, Severity.HIGH), Tone.BAD),
        **dict.fromkeys((Severity.MEDIUM, Severity.LOW), Tone.WARN),
    },
    IncidentState: {
        IncidentState.CONTAINED: Tone.GOOD,
        IncidentState.REACTING: Tone.BUSY,
        IncidentState.OPEN: Tone.WARN,
        IncidentState.ESCALATED: Tone.BAD,
    },
    ReactionState: {
        ReactionState.VERIFIED: Tone.GOOD,
        **dict.fromkeys((ReactionState.INTENDED, ReactionState.DONE, ReactionState.UNDOING), Tone.BUSY),
        ReactionState.ASKED: Tone.WARN,
        **dict.fromkeys((ReactionState.UNVERIFIED, ReactionState.ESCALATED), Tone.BAD),
    },
    OrderState: {
        OrderState.DONE: Tone.GOOD,
        **dict.fromkeys((OrderState.ASKED, OrderState.TAKEN), Tone.BUSY),
        **dict.fromkeys((OrderState.FAILED, OrderState.REFUSED, OrderState.EXPIRED), Tone.BAD),
    },
    ActState: {
        ActState.ASKED: Tone.WARN,
        ActState.DONE: Tone.GOOD,
        **dict.fromkeys((ActState.GRANTED, ActState.TAKEN), Tone.BUSY),
        ActState.FAILED: Tone.BAD,
    },
    WindowState: {WindowState.PLANNED: Tone.BUSY, WindowState.CLOSED: Tone.WARN},
}


def tone_of(state: StrEnum) -> Tone:
    """Of a state of one of the life cycles above."""
    return _TONES.get(type(state), {}).get(state, Tone.OFF)
