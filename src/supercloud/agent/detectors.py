"""`python3 -m supercloud.agent.detectors NAME [SOCKET PLACE]`: a detector as a process.

NAME is port, components, guest, memory or integrity; PLACE what it looks at: the overlay's record, the
supervisor's services, where QEMUs' process ids are, the owner's rules, or the root whose files are measured.

It may be killed and begun anew at any time: what it had said and nobody answered is lost with it, and said
again by what it sees next. The loop knows it by its name on the loop's socket.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from supercloud import logs
from supercloud.agent.teller import Teller
from supercloud.blanket.places import LOOP_SOCKET
from supercloud.model.errors import NotFound
from supercloud.model.names import Name
from supercloud.security import detectors
from supercloud.security.link import Link, Where

_NAMES = (detectors.PORT, detectors.COMPONENTS, detectors.GUEST, detectors.MEMORY, detectors.INTEGRITY)


def _watching(name: Name) -> tuple[Callable[[Teller, Path], Coroutine[Any, Any, None]], Path]:
    """What it does until it is cancelled, and at what it usually looks.

    Raises:
        NotFound: there is no such detector.
    """
    match name:
        case detectors.PORT:
            from supercloud.agent.ports import KNOWN, watch_ports

            return watch_ports, KNOWN
        case detectors.COMPONENTS:
            from supercloud.agent.components import SERVICES, watch_components

            return watch_components, SERVICES
        case detectors.GUEST:
            from supercloud.agent.guests import watch_guests
            from supercloud.blanket.guest_memory import PID_FILES

            return watch_guests, PID_FILES
        case detectors.MEMORY:
            from supercloud.agent.scans import watch_memory
            from supercloud.blanket.places import YARA_RULES

            return watch_memory, YARA_RULES
        case detectors.INTEGRITY:
            from supercloud.agent.measured import ROOT, watch_files

            return watch_files, ROOT
    raise NotFound(f"there is no detector {name!r}")


async def _parent_ended() -> None:
    """Whoever began this process holds the other end of its standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    raise SystemExit(0)


async def detect(name: Name, socket: Path = LOOP_SOCKET, place: Path | None = None) -> None:
    watch, usual = _watching(name)
    link = Link(Where(path=socket), name)
    teller = Teller(link)
    async with asyncio.TaskGroup() as group:
        group.create_task(link.run())
        group.create_task(teller.run())
        group.create_task(watch(teller, place or usual))
        if stat.S_IFMT(os.fstat(0).st_mode) in {stat.S_IFIFO, stat.S_IFSOCK}:
            group.create_task(_parent_ended())


def main() -> None:
    logs.configure()
    name, *places = sys.argv[1:] or [""]
    if name not in _NAMES or len(places) not in {0, 2}:
        sys.exit(f"which detector? one of {', '.join(_NAMES)}")
    asyncio.run(detect(name, *map(Path, places)))


if __name__ == "__main__":
    main()
