"""`python3 -m supercloud.agent.taker MEMORY FILE`: copies an instance's memory, sealed, from one descriptor
to another, with no right to do anything else.

What is copied goes as an ELF core, as QEMU's own dumps of memory are: a segment for each part that was ever
written to, at its address in the machine. Its standard input says what is asked, as one line; its standard
output what came of it. It ends with whoever began it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from supercloud.agent.looker import confine
from supercloud.model.errors import InvalidInput, SupercloudError
from supercloud.model.memory import Span
from supercloud.model.names import MIB
from supercloud.trust.evidence import Header, Sealing, fresh_key, known_first
from supercloud.trust.keys import SealingKey

#: Parts nearer to each other than this are one, and more than so many parts are drawn together.
_NEAR: Final = MIB
PARTS: Final = 32_000
_READ: Final = MIB
_PR_SET_PDEATHSIG: Final = 1
_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_CORE, _X86_64, _LOAD, _READ_WRITE = 4, 62, 1, 6


@dataclass(frozen=True, slots=True)
class Part:
    """Of a machine's memory: where the machine has it, and where the file."""

    address: int
    offset: int
    length: int


def written(descriptor: int) -> Iterator[tuple[int, int]]:
    """What was ever written to a file without being a hole: from, to."""
    at = 0
    while True:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
            end = os.lseek(descriptor, at, os.SEEK_HOLE)
        except OSError:
            return
        yield at, end
        at = end


def parts_of(spans: Iterable[Span], extents: Iterable[tuple[int, int]]) -> list[Part]:
    """What is to be copied, in order; small gaps are copied too, so that it is not too many."""
    extents, spans = list(extents), list(spans)
    total = sum(span.length for span in spans)
    near = max(_NEAR, total // PARTS)
    found: list[Part] = []
    for span in spans:
        for begin, end in extents:
            first, last = max(begin, span.offset), min(end, span.offset + span.length)
            if first >= last:
                continue
            before = found[-1] if found else None
            gap = None if before is None else first - (before.offset + before.length)
            if before is not None and before.offset >= span.offset and gap is not None and gap < near:
                found[-1] = Part(before.address, before.offset, last - before.offset)
            else:
                found.append(Part(span.address + first - span.offset, first, last - first))
    return found


def elf(parts: list[Part]) -> bytes:
    """The headers of an ELF core whose segments follow at once."""
    at = _ELF.size + _PROGRAM.size * len(parts)
    header = _ELF.pack(
        _IDENT, _CORE, _X86_64, 1, 0, _ELF.size, 0, 0, _ELF.size, _PROGRAM.size, len(parts), 0, 0, 0
    )
    programs = []
    for part in parts:
        where = (part.address, part.address, part.length, part.length)
        programs.append(_PROGRAM.pack(_LOAD, _READ_WRITE, at, *where, 1))
        at += part.length
    return header + b"".join(programs)


def size_of(parts: Iterable[Part]) -> int:
    return sum(part.length for part in parts)


def segments(core: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Of what `elf` begins and its segments follow: each piece with its address in the machine.

    Raises:
        InvalidInput: it is not as `elf` makes it.
    """
    buffer = bytearray()

    def need(length: int) -> bytes:
        while len(buffer) < length:
            piece = next(core, None)
            if piece is None:
                raise InvalidInput("the memory in it is cut off")
            buffer.extend(piece)
        found = bytes(buffer[:length])
        del buffer[:length]
        return found

    head = _ELF.unpack(need(_ELF.size))
    if head[0] != _IDENT or (head[1], head[5], head[9]) != (_CORE, _ELF.size, _PROGRAM.size):
        raise InvalidInput("the memory in it is no ELF core of ours")
    programs = [_PROGRAM.unpack(need(_PROGRAM.size)) for _ in range(head[10])]
    for program in programs:
        address, left = program[4], program[5]
        while left:
            data = need(min(_READ, left))
            yield address, data
            address, left = address + len(data), left - len(data)


def take(asked: dict[str, Any], memory: int, write: Any) -> dict[str, Any]:
    """The answer: the digest to sign, and how much memory it is.

    Raises:
        SupercloudError, OSError.
    """
    parts = parts_of([Span(**one) for one in asked["spans"]], written(memory))
    names = {name: str(asked[name]) for name in ("evidence", "blanket", "cloud")}
    key, sealed = fresh_key(asked["owner_key"], **names)
    header = Header(
        **names,
        incident=asked["incident"],
        instance=asked["instance"],
        at=float(asked["at"]),
        memory_bytes=size_of(parts),
        key=sealed,
    )
    sealing = Sealing(header, key, write)
    sealing.write(known_first(asked["known"]))
    sealing.write(elf(parts))
    for part in parts:
        for at in range(part.offset, part.offset + part.length, _READ):
            length = min(_READ, part.offset + part.length - at)
            sealing.write(os.pread(memory, length, at).ljust(length, b"\0"))
    return {"digest": sealing.end(), "memory_bytes": header.memory_bytes}


def _rehearsed() -> None:
    """Libraries load some of themselves when they are first used, and from where nothing is they cannot."""
    nobody = "00000000-0000-4000-8000-000000000000"
    key, sealed = fresh_key(SealingKey.new().public, cloud=nobody, blanket=nobody, evidence=nobody)
    header = Header(
        evidence=nobody, incident=nobody, instance=nobody, blanket=nobody, cloud=nobody,
        at=0.0, memory_bytes=0, key=sealed,
    )  # fmt: skip
    Sealing(header, key, len).end()


def end_with_who_began() -> None:
    """Killed or not."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == 1:
        sys.exit(1)


def main() -> None:
    memory, file = int(sys.argv[1]), int(sys.argv[2])
    asked = json.loads(sys.stdin.readline())
    _rehearsed()
    confine(file_bytes=int(asked["most_bytes"]))
    end_with_who_began()  # after the user is another's, which would take it away

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    try:
        answer = take(asked, memory, write)
    except (SupercloudError, OSError) as error:
        answer = {"failed": str(error)[:200]}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
