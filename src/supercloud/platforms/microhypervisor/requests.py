"""What is asked of a micro-hypervisor, and what it answers: `docs/spec/microhypervisor-channel.md`, 2.

Replies come from below and are not trusted: whatever they hold, decoding ends in a value or in `Failed`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supercloud.model.acts import Operation
from supercloud.model.errors import Failed, Refused
from supercloud.model.names import PublicKey
from supercloud.platforms.microhypervisor.frames import Frame

_REPLY = 0x80
_REFUSED = 0xFF
_NAME_SIZE = 16
_KEY_SIZE = 32
#: Bytes of a page of 4 KiB, and of its seal.
SEALED_SIZE = 4096 + 16
#: Codes of refusal that are about consents.
_OF_MONITOR = range(6, 13)
_PARTITION = struct.Struct("<16sBBQQ80s")
_STATISTICS = struct.Struct("<6Q")
_MEASUREMENT = struct.Struct("<32sQB")
_HELLO = struct.Struct("<BBQ")
_CHALLENGE = struct.Struct("<32sQ")
_ACTS = struct.Struct("<10Q")


class Request(enum.IntEnum):
    HELLO = 0
    LIST = 1
    START = 2
    STOP = 3
    RESTART = 4
    STATISTICS = 5
    CONSOLE = 6
    MEASURE = 7
    ATTEST = 8
    CHALLENGE = 9
    ACT = 10
    PAGE = 11
    ACTS = 12
    TENANT = 13


class State(enum.IntEnum):
    STOPPED = 0
    RUNNING = 1
    PARKED = 2
    RESTARTING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    version: int
    most_partitions: int
    clock_khz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """`memory` in bytes; `reason` says why it is stopped or parked."""

    name: str
    state: State
    cores: int
    memory: int
    launches: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreStatistics:
    """Counts since the core began."""

    exits: int
    nested_runs: int
    nested_exits: int
    shadow_faults: int
    shadow_flushes: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsolePart:
    """`until` counts what was written up to the end of `text`: the next request's `start`."""

    until: int
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`attested` is false where nothing but the admin's channel vouches for the digest."""

    digest: bytes
    launches: int
    attested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """For the next act on a partition, in the launch that it is in now."""

    challenge: bytes
    launch: int


@dataclass(frozen=True, slots=True)
class Acts:
    """What the reference monitor was asked about a partition since the machine started, and its answers."""

    challenges: int
    pages: int
    given: int
    malformed: int
    not_signed: int
    other_challenge: int
    other_act: int
    expired: int
    no_tenant: int
    not_next: int


def ask(
    request: Request, sequence: int, name: str = "", start: int | None = None, *, rest: bytes = b""
) -> Frame:
    """The frame of a request about the partition `name`, if it is about one.

    Args:
        start: of CONSOLE.
        rest: what follows the name: a nonce or a tenant's key, each of 32 bytes, `act` or `page`.

    Raises:
        ValueError: no partition can be called that.
    """
    payload = b""
    if name:
        encoded = name.encode("ascii")
        if len(encoded) >= _NAME_SIZE:
            raise ValueError("a partition's name has at most 15 characters")
        payload = encoded.ljust(_NAME_SIZE, b"\0")
    if start is not None:
        payload += struct.pack("<Q", start)
    return Frame(kind=request, sequence=sequence, payload=payload + rest)


def act(operation: Operation, first: int, pages: int, consent: bytes) -> bytes:
    """The rest of ACT: pages of 4 KiB, and what the tenant signed."""
    return struct.pack("<BQQ", operation, first, pages) + consent


def page(number: int, start: int) -> bytes:
    """The rest of PAGE: a part of the sealed page, from byte `start` on."""
    return struct.pack("<QH", number, start)


def tenant(key: PublicKey | None) -> bytes:
    """The rest of TENANT; None: nobody."""
    return bytes(_KEY_SIZE) if key is None else bytes.fromhex(key.removeprefix("ed25519/"))


def accepted(request: Frame, reply: Frame) -> bytes:
    """The payload of the reply to a request.

    Raises:
        Refused: the reference monitor did, with the reason: no tenant consented to this.
        Failed: it was refused otherwise, with the reason; or this is no reply to it.
    """
    if reply.sequence != request.sequence:
        raise Failed("the micro-hypervisor answered something else")
    if reply.kind == _REFUSED and reply.payload:
        text = reply.payload[1:].decode("ascii", "replace")
        kind = Refused if reply.payload[0] in _OF_MONITOR else Failed
        raise kind(f"the micro-hypervisor refused: {''.join(c if c.isprintable() else '?' for c in text)}")
    if reply.kind != request.kind | _REPLY:
        raise Failed("the micro-hypervisor answered something else")
    return reply.payload


def hello(payload: bytes) -> Hello:
    version, most, khz = _unpack(_HELLO, payload)
    return Hello(version=version, most_partitions=most, clock_khz=khz)


def partitions(payload: bytes) -> Sequence[Partition]:
    return [
        Partition(
            name=_text(name),
            state=_state(state),
            cores=cores,
            memory=memory,
            launches=launches,
            reason=_text(reason),
        )
        for name, state, cores, memory, launches, reason in _each(_PARTITION, payload)
    ]


def statistics(payload: bytes) -> Sequence[CoreStatistics]:
    """One for each core, the first one first."""
    return [
        CoreStatistics(
            exits=exits,
            nested_runs=runs,
            nested_exits=given,
            shadow_faults=faults,
            shadow_flushes=flushes,
            refused=refused,
        )
        for exits, runs, given, faults, flushes, refused in _each(_STATISTICS, payload)
    ]


def console(payload: bytes) -> ConsolePart:
    if len(payload) < 8:
        raise Failed("the micro-hypervisor's reply is cut off")
    return ConsolePart(until=int.from_bytes(payload[:8], "little"), text=payload[8:])


def measurement(payload: bytes) -> Measurement:
    digest, launches, attested = _unpack(_MEASUREMENT, payload)
    return Measurement(digest=digest, launches=launches, attested=attested != 0)


def challenge(payload: bytes) -> Challenge:
    value, launch = _unpack(_CHALLENGE, payload)
    return Challenge(challenge=value, launch=launch)


def page_part(payload: bytes) -> tuple[int, bytes]:
    """The sealed page's version, and the part of it that was asked for."""
    if len(payload) <= 8:
        raise Failed("the micro-hypervisor's reply is cut off")
    return int.from_bytes(payload[:8], "little"), payload[8:]


def acts(payload: bytes) -> Acts:
    return Acts(*_unpack(_ACTS, payload))


def _unpack(form: struct.Struct, payload: bytes) -> tuple[Any, ...]:
    if len(payload) != form.size:
        raise Failed("the micro-hypervisor's reply has another length")
    return form.unpack(payload)


def _each(form: struct.Struct, payload: bytes) -> list[tuple[Any, ...]]:
    if not payload or len(payload) != 1 + payload[0] * form.size:
        raise Failed("the micro-hypervisor's reply has another length")
    return list(form.iter_unpack(payload[1:]))


def _text(padded: bytes) -> str:
    text = padded.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _state(number: int) -> State:
    try:
        return State(number)
    except ValueError:
        raise Failed("the micro-hypervisor's reply has an unknown state") from None
