"""`python3 -m supercloud.agent.looker`: looks at guests' memory, with no right to do anything else.

Its standard input is a socket: for each look a line that says at what, with the descriptor of the memory,
and a line back. What it knows of a guest it keeps from one look to the next. It ends when nobody is there.
Whoever reads its answers checks them; it loads no more than it needs to look.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from supercloud.model.errors import Unavailable
from supercloud.model.memory import Span
from supercloud.model.units import MIB
from supercloud.security.introspection.look import Looker, Seen
from supercloud.security.introspection.memory import Physical

#: Of a line, either way.
LINE_BYTES: Final = 1 << 20
#: Of what is only evidence.
_PROCESSES, _SOCKETS, _MODULES = 500, 500, 300
#: A user that nothing else runs as.
_USER: Final = 64_900
_MEMORY: Final = 1024 * MIB
_FILES: Final = 1024
_PR_SET_NO_NEW_PRIVS, _CLONE_NEWNET, _CLONE_NEWNS = 38, 0x40000000, 0x00020000


class Guest:
    """One, and its memory."""

    def __init__(self, descriptor: int, spans: tuple[Span, ...]) -> None:
        self._descriptor = descriptor
        self.looker = Looker(Physical(spans, self._read), self._written)

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def _written(self) -> Iterator[tuple[int, int]]:
        """What has never been written to would take room once it is read."""
        at = 0
        while True:
            try:
                at = os.lseek(self._descriptor, at, os.SEEK_DATA)
                end = os.lseek(self._descriptor, at, os.SEEK_HOLE)
            except OSError:
                return
            yield at, end - at
            at = end

    def close(self) -> None:
        os.close(self._descriptor)


class Guests:
    def __init__(self) -> None:
        self._known: dict[str, Guest] = {}

    def look(self, wanted: dict[str, Any], descriptor: int) -> bytes:
        """The answer to a line."""
        self._keep(wanted["keep"])
        key = str(wanted["key"])
        guest = self._known.get(key)
        if guest is None:
            guest = self._known[key] = Guest(descriptor, tuple(Span(**one) for one in wanted["spans"]))
        else:
            os.close(descriptor)
        try:
            return _line({"seen": asdict(_short(guest.looker.look()))})
        except Unavailable as error:
            return _line({"cannot": error.message})
        except Exception as error:  # noqa: BLE001 - of this guest: what is known of others is kept
            self._known.pop(key).close()
            return _line({"failed": f"{type(error).__name__}: {error}"[:200]})

    def _keep(self, keys: Iterable[str]) -> None:
        for gone in self._known.keys() - set(keys):
            self._known.pop(gone).close()


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


def _short(seen: Seen) -> Seen:
    return replace(
        seen,
        processes=seen.processes[-_PROCESSES:],
        sockets=seen.sockets and seen.sockets[:_SOCKETS],
        modules=seen.modules[:_MODULES],
    )


def confine(*, file_bytes: int = 0) -> None:
    """Nothing but to read what it has, and to answer; files that it has open to write grow to `file_bytes`.
    Begun by another than root, it stays who it is.

    Raises:
        OSError: it cannot give up what it has.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        if libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        os.chdir(tempfile.mkdtemp())
        Path.cwd().rmdir()
        os.chroot(".")  # where nothing is, nor can be made
        os.setgroups([])
        os.setresgid(_USER, _USER, _USER)
        os.setresuid(_USER, _USER, _USER)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    for kind, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def serve(line: socket.socket) -> None:
    """Until the other end is gone."""
    guests, rest, descriptors = Guests(), b"", []
    while True:
        data, new, _, _ = socket.recv_fds(line, LINE_BYTES, 4)
        if not data:
            return
        descriptors += new
        rest += data
        while b"\n" in rest and descriptors:
            wanted, rest = rest.split(b"\n", 1)
            line.sendall(guests.look(json.loads(wanted), descriptors.pop(0)))
        if len(rest) > LINE_BYTES:
            return


def main() -> None:
    confine()
    with socket.socket(fileno=sys.stdin.fileno()) as line:
        serve(line)


if __name__ == "__main__":
    main()
