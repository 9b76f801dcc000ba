"""When a source has sent everything, and when its process is over: known before libvirt says it, and while
the kernel still takes it apart.

A guest that has moved waits for this. libvirt tells up to half a second after a process has ended; and under
emulation the kernel needs most of a second to end a process with a virtual machine in it. QEMU itself says
that it was told to go (SHUTDOWN): if it has sent everything by then (MIGRATION: completed, an event that
libvirt has switched on), nothing of the guest executes here any more, since it leaves its main loop and takes
no commands. That it stands still is not enough: a transfer that ends with its QEMU lets the guest go on for a
moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog
from qemu.qmp import QMPClient, QMPError

from supercloud.model.names import Id

_PID_FILE: Final = "/run/libvirt/qemu/sc-{}.pid"
_EVENTS: Final = {"MIGRATION", "RESUME", "SHUTDOWN"}
#: A signal, or `quit`: what ends the process. A guest that powers itself off may be started again in it.
_TOLD_TO_GO: Final = {"host-signal", "host-qmp-quit"}
_ANSWER_S: Final = 5.0
_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def ending(
    instance: Id, monitor: Path, *, sent: Callable[[bool], None], ended: Callable[[], None]
) -> AsyncIterator[None]:
    """Have `ended` called, once, on the event loop when the instance's process is over meanwhile; and `sent`,
    whenever that changes, with whether it has sent everything and stands still.

    What cannot be watched is left to libvirt's own event. `monitor`: a QMP socket of that QEMU for us.
    """
    over, listening = asyncio.Event(), asyncio.Event()
    with _process(instance, over.set):
        watching = [
            asyncio.create_task(_told_to_go(monitor, listening, over, sent)),
            asyncio.create_task(_tell(over, ended)),
        ]
        try:
            await listening.wait()
            yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


async def _tell(over: asyncio.Event, ended: Callable[[], None]) -> None:
    await over.wait()
    ended()


async def _told_to_go(
    monitor: Path, listening: asyncio.Event, over: asyncio.Event, tell_sent: Callable[[bool], None]
) -> None:
    """`listening` is set once nothing is missed any more, or nothing can be heard."""
    qmp = QMPClient("agent")
    try:
        async with asyncio.timeout(_ANSWER_S):
            await qmp.connect(str(monitor))
        with qmp.listener(_EVENTS) as events:
            listening.set()
            sent = False
            async for event in events:
                match event["event"]:
                    case "MIGRATION":
                        sent = _said(event, "status") == "completed"
                        tell_sent(sent)
                    case "RESUME":
                        sent = False
                        tell_sent(sent)
                    case _ if sent and _said(event, "reason") in _TOLD_TO_GO:
                        over.set()
    except (QMPError, OSError, EOFError, TimeoutError) as error:
        _log.info("libvirt.monitor_not_heard", reason=str(error))
    finally:
        listening.set()
        with contextlib.suppress(QMPError, OSError, EOFError):
            await qmp.disconnect()


def _said(event: Mapping[str, object], what: str) -> object:
    data = event.get("data")
    return data.get(what) if isinstance(data, dict) else None


@contextlib.contextmanager
def _process(instance: Id, ended: Callable[[], None]) -> Iterator[None]:
    """`ended` when the kernel says so of its process."""
    try:
        pid = int(Path(_PID_FILE.format(instance)).read_text())
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        yield
        return
    loop = asyncio.get_running_loop()

    def readable() -> None:
        loop.remove_reader(descriptor)
        ended()

    try:
        if _runs(pid, instance):  # asked only now: the descriptor holds that very process
            loop.add_reader(descriptor, readable)
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _runs(pid: int, instance: Id) -> bool:
    try:
        return f"guest=sc-{instance}," in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return False
