"""Orders: what only a provider can do to its own platform, asked for by who rents a machine there. Pure.

An order is an OpenC2 1.0 command about one machine. Which there are is a table (`MEANINGS`); a domain says
which of them it takes, and is asked for no other. What reads a user's data is no order but a privileged act
(model.acts), whoever asks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from supercloud.model.errors import InvalidInput
from supercloud.model.limits import Limits
from supercloud.model.names import Id, Port
from supercloud.model.openc2 import ActionTarget
from supercloud.model.states import move

#: Of OpenC2's extensions: where what is a machine of which domain is said.
PROFILE = "x-supercloud"


class Reaction(ActionTarget):
    """An action and its target, as OpenC2 names them."""

    DENY_NET = "deny:ipv4_net"
    DENY_CONNECTION = "deny:ipv4_connection"
    ALLOW_NET = "allow:ipv4_net"
    ALLOW_CONNECTION = "allow:ipv4_connection"
    CONTAIN = "contain:device"
    RELEASE = "allow:device"
    START = "start:device"
    STOP = "stop:device"
    RESTART = "restart:device"


_R = Reaction
#: What a provider that takes it does, and so what its user may rely on.
MEANINGS: Mapping[Reaction, str] = {
    _R.DENY_NET: "nothing goes between the machine and these addresses, either way",
    _R.DENY_CONNECTION: "nothing goes between the machine and the other end of such connections, either way",
    _R.ALLOW_NET: "what was denied with the same addresses goes through again",
    _R.ALLOW_CONNECTION: "what was denied with the same connection goes through again",
    _R.CONTAIN: "the machine reaches, and is reached by, nothing but the control plane",
    _R.RELEASE: "it is contained no more",
    _R.START: "a machine that is stopped runs again, from its kept disk",
    _R.STOP: "it is shut down, and ended if it does not obey; its disk is kept",
    _R.RESTART: "it is reset, as by its button; its disk is kept",
}
#: Those that hold until they are taken back, or for a time.
LASTING = frozenset({_R.DENY_NET, _R.DENY_CONNECTION, _R.CONTAIN})


class OrderState(StrEnum):
    ASKED = "asked"  # its provider can see it
    TAKEN = "taken"  # and has said that it is at it
    DONE = "done"
    FAILED = "failed"  # it was tried
    REFUSED = "refused"  # by the provider, which did nothing
    EXPIRED = "expired"  # its deadline passed; of one that was taken nobody said how it ended
    CANCELLED = "cancelled"  # before it was taken


_O = OrderState
ORDER_TRANSITIONS: Mapping[OrderState, frozenset[OrderState]] = {
    _O.ASKED: frozenset({_O.TAKEN, _O.DONE, _O.FAILED, _O.REFUSED, _O.EXPIRED, _O.CANCELLED}),
    _O.TAKEN: frozenset({_O.DONE, _O.FAILED, _O.REFUSED, _O.EXPIRED}),
    _O.DONE: frozenset(),
    _O.FAILED: frozenset(),
    _O.REFUSED: frozenset(),
    _O.EXPIRED: frozenset(),
    _O.CANCELLED: frozenset(),
}
OPEN = frozenset({_O.ASKED, _O.TAKEN})
#: Seconds within which one has to be done, if nobody says; at least; at most.
USUAL_S, SHORTEST_S, LONGEST_S = 3600.0, 10.0, 7 * 86400.0
#: Of what lasts, at most; as OpenC2 has it, in milliseconds.
LONGEST_MS = 31 * 86400 * 1000
#: A net that is wider is most of the world, the control plane included: that is what `contain` is for.
_WIDEST_NET = 8


class Status(StrEnum):
    """What OpenC2's status codes mean for an order."""

    PROCESSING = "processing"
    OK = "ok"
    REFUSES = "refuses"
    FAILED = "failed"


#: OpenC2 1.0, 3.3.2: the codes that a response may have.
STATUSES: Mapping[int, Status] = {
    102: Status.PROCESSING,
    200: Status.OK,
    400: Status.REFUSES,
    401: Status.REFUSES,
    403: Status.REFUSES,
    404: Status.REFUSES,
    501: Status.REFUSES,
    500: Status.FAILED,
    503: Status.FAILED,
}
_AFTER = {
    Status.PROCESSING: _O.TAKEN,
    Status.OK: _O.DONE,
    Status.REFUSES: _O.REFUSED,
    Status.FAILED: _O.FAILED,
}


def answered(now: OrderState, status: int) -> OrderState:
    """The state that a response leads to. The same again is harmless.

    Raises:
        InvalidInput: OpenC2 has no such code.
        Conflict: it has ended in another way.
    """
    if status not in STATUSES:
        raise InvalidInput(f"{status} is no status of an OpenC2 response", hint=f"one of {sorted(STATUSES)}")
    return move(ORDER_TRANSITIONS, now, _AFTER[STATUSES[status]])


# ---------------------------------------------------------------- the command

_Net = Annotated[str, Limits(pattern=r"^(\d{1,3}\.){3}\d{1,3}(/\d{1,2})?$")]
_Millis = Annotated[int, Limits(ge=0, le=8 * 10**12)]


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    SCTP = "sctp"


class Wanted(StrEnum):
    """What of a response is asked for."""

    NONE = "none"
    ACK = "ack"
    STATUS = "status"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """OpenC2's `ipv4_connection`. What is left out is any."""

    protocol: Protocol | None = None
    src_addr: _Net | None = None
    src_port: Port | None = None
    dst_addr: _Net | None = None
    dst_port: Port | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """OpenC2's `device`: the machine itself, whose id can be left out."""

    device_id: Id | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One of these."""

    device: Device | None = None
    ipv4_net: _Net | None = None
    ipv4_connection: Connection | None = None

    @property
    def kind(self) -> str:
        """
        Raises:
            InvalidInput: it is none, or several.
        """
        given = [
            name for name in ("device", "ipv4_net", "ipv4_connection") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise InvalidInput("a command has one target", hint="device, ipv4_net or ipv4_connection")
        return given[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Args:
    """Of OpenC2's: milliseconds since the epoch, and milliseconds."""

    start_time: _Millis | None = None
    duration: Annotated[int, Limits(gt=0, le=LONGEST_MS)] | None = None
    response_requested: Wanted | None = None


NO_ARGS = Args()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Of OpenC2 1.0, what a user says of it: which machine it is about is said beside it."""

    action: Annotated[str, Limits(pattern=r"^[a-z]{1,16}$")]
    target: Target
    args: Args = NO_ARGS

    @property
    def reaction(self) -> Reaction:
        """
        Raises:
            InvalidInput: there is no such pair of an action and a target.
        """
        said = f"{self.action}:{self.target.kind}"
        try:
            return Reaction(said)
        except ValueError as error:
            known = ", ".join(Reaction)
            raise InvalidInput(f"there is no order {said}", hint=f"one of {known}") from error

    def check(self, machine: Id, *, now: float, deadline: float) -> Reaction:
        """Which it is. Moments are seconds since the epoch.

        Raises:
            InvalidInput: it says what no provider could do.
        """
        found, args = self.reaction, self.args
        if self.target.device is not None and self.target.device.device_id not in {None, machine}:
            raise InvalidInput("its target is another device than the machine that it is about")
        if self.target.ipv4_net is not None and _net(self.target.ipv4_net).prefixlen < _WIDEST_NET:
            raise InvalidInput(
                f"{self.target.ipv4_net} is wider than /{_WIDEST_NET}",
                hint="contain:device leaves it nothing but the control plane",
            )
        if self.target.ipv4_connection is not None:
            _check_connection(self.target.ipv4_connection)
        if args.duration is not None and found not in LASTING:
            raise InvalidInput(f"{found} does not last, so that it has no duration")
        if args.start_time is not None and not now - 60 <= args.start_time / 1000 <= deadline:
            raise InvalidInput("it would begin before now, or after its deadline", hint="in milliseconds")
        return found

    def as_openc2(self, *, order: Id, domain: Id, machine: Id) -> dict[str, Any]:
        """As its provider reads it: complete, and with no word of a user's."""
        target: dict[str, Any] = {"device": {"device_id": machine}}
        if self.target.ipv4_net is not None:
            target = {"ipv4_net": str(_net(self.target.ipv4_net))}
        elif self.target.ipv4_connection is not None:
            one = self.target.ipv4_connection
            names = ("protocol", "src_addr", "src_port", "dst_addr", "dst_port")
            target = {"ipv4_connection": _said({name: getattr(one, name) for name in names})}
        args = self.args
        said = _said(
            {
                "start_time": args.start_time,
                "duration": args.duration,
                "response_requested": args.response_requested,
            }
        )
        return {
            "action": self.action,
            "target": target,
            "args": {"response_requested": "complete"} | said,
            "actuator": {PROFILE: {"domain": domain, "machine": machine}},
            "command_id": order,
        }


def command_of(
    reaction: Reaction,
    *,
    net: str | None = None,
    protocol: Protocol | None = None,
    source: str | None = None,
    to: str | None = None,
    duration_s: float | None = None,
) -> dict[str, Any]:
    """A `Command` as a request says it, of the words that people use: `net` of an ipv4_net, the next three of
    an ipv4_connection, whose ends are ADDRESS[:PORT].

    Raises:
        InvalidInput: one is missing, too much, or no end.
    """
    if (net is None) == (reaction.target == "ipv4_net"):
        raise InvalidInput(f"{reaction} {'needs' if net is None else 'takes no'} net")
    connection = _said({"protocol": protocol, **_end("src", source), **_end("dst", to)})
    if connection and reaction.target != "ipv4_connection":
        raise InvalidInput(f"{reaction} is about no connection", hint="leave its protocol and its ends out")
    targets: Mapping[str, Any] = {"device": {}, "ipv4_net": net, "ipv4_connection": connection}
    return {
        "action": reaction.action,
        "target": {reaction.target: targets[reaction.target]},
        "args": {} if duration_s is None else {"duration": int(duration_s * 1000)},
    }


def _end(which: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    address, colon, port = text.partition(":")
    if not colon:
        return {f"{which}_addr": address}
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise InvalidInput(f"{text!r} is not ADDRESS[:PORT]")
    return {f"{which}_addr": address, f"{which}_port": int(port)}


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: str(one) if isinstance(one, StrEnum) else one for name, one in given.items() if one is not None
    }


def _net(text: str) -> ipaddress.IPv4Network:
    """
    Raises:
        InvalidInput: it is none.
    """
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidInput(f"{text} is not a network: {error}", hint="for example 198.51.100.0/24") from error


def _check_connection(one: Connection) -> None:
    if one.src_addr is None and one.dst_addr is None:
        raise InvalidInput("a connection has at least one address", hint="src_addr or dst_addr")
    for address in (one.src_addr, one.dst_addr):
        if address is not None:
            _net(address)
    if (one.src_port or one.dst_port) and one.protocol not in {Protocol.TCP, Protocol.UDP, Protocol.SCTP}:
        raise InvalidInput("a port needs a protocol that has ports", hint="protocol tcp, udp or sctp")
