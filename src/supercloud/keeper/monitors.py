"""Every QEMU of this blanket, through a monitor of the keeper's own: what it does, and how to end that."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from asyncinotify import Inotify, Mask
from qemu.qmp import QMPClient, QMPError

from supercloud.keeper.fence import Fence
from supercloud.keeper.rights import Seen
from supercloud.model.errors import Failed
from supercloud.model.names import Id

SOCKETS = Path("/run/supercloud/qmp")
SUFFIX = ".keeper.sock"
#: Where this blanket's copies of volumes are.
IMAGES = Path("/var/lib/supercloud/volumes")
#: How long a QEMU may take to obey before its process is killed; with the watchdog's time inside the margin.
OBEY_S = 5.0
_CONNECT_S = 5.0
_EVENTS = {"MIGRATION", "RESUME", "STOP", "SHUTDOWN", "RESET"}
#: QEMU's RunState, where nothing executes.
_STOPPED = {"paused": Seen.PAUSED, "finish-migrate": Seen.SENT, "postmigrate": Seen.SENT}
_log = structlog.get_logger(__name__)


class Monitor:
    """One QEMU process, by its socket and its pidfd (which cannot come to mean another process)."""

    def __init__(self, instance: Id, path: Path, changed: Callable[[], None], images: Path = IMAGES) -> None:
        self.instance = instance
        self.seen: Seen | None = None  # None: just met, nothing heard yet
        self._path = path
        self._changed = changed
        self._qmp = QMPClient(f"keeper-{instance}")
        self._pid = self._pidfd = -1
        self._fence = Fence(images)
        self._arrived = False  # seen paused when all of it had come, and nothing was heard since
        self._ready = asyncio.Event()  # set once the monitor answers
        self._stopped = asyncio.Event()  # set while it is known not to execute

    async def follow(self) -> None:
        """From its first words to its process's end.

        Raises:
            OSError: nothing listens at the socket (any more).
        """
        connection = await _connect(self._path)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self._pid, _, _ = struct.unpack("3i", credentials)
        self._pidfd = os.pidfd_open(self._pid)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, ended.set)
        watching = asyncio.create_task(self._watch(connection))
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            os.close(self._pidfd)
            self._pidfd = -1
            self._fence.drop()
            self._stopped.set()

    async def _watch(self, connection: socket.socket) -> None:
        """Until the monitor closes. A process that goes on without one stays MUTE, so it needs no trust."""
        try:
            async with asyncio.timeout(OBEY_S):
                await self._qmp.connect(connection)
            self._ready.set()
            with self._qmp.listener(_EVENTS) as events:
                await self._look()
                async for event in events:
                    await self._heard(str(event["event"]))
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            _log.warning("keeper.monitor_lost", instance=self.instance, error=str(error))
        finally:
            self._show(Seen.MUTE)
            await _hang_up(self._qmp)

    async def _heard(self, event: str) -> None:
        self._arrived = False
        if event == "RESUME":  # not a moment later than QEMU's own word, whatever a query would say by now
            self._show(Seen.RUNNING)
        arriving = self.seen is Seen.IDLE
        if event == "MIGRATION" and not arriving:
            return  # what leaves says STOP
        await self._look()
        self._arrived = arriving and self.seen is Seen.PAUSED

    async def look(self) -> None:
        """Ask what it does; MUTE if it does not say within `OBEY_S`."""
        try:
            async with asyncio.timeout(OBEY_S):
                await self._look()
        except (QMPError, OSError, EOFError, TimeoutError):
            self._show(Seen.MUTE)

    async def _look(self) -> None:
        status = await self._qmp.execute("query-status")
        if not isinstance(status, dict):
            return
        if status["running"] or status["status"] == "suspended":  # a suspended guest can wake itself
            self._show(Seen.RUNNING)
        else:
            self._show(_STOPPED.get(str(status["status"]), Seen.IDLE))

    def _show(self, seen: Seen) -> None:
        if seen in (Seen.PAUSED, Seen.IDLE, Seen.SENT):
            self._stopped.set()
        else:
            self._stopped.clear()
        if seen is not self.seen:
            self.seen = seen
            self._changed()

    async def pause(self) -> bool:
        """Make it execute nothing; True if the process had to be ended for that.

        QEMU says STOP as soon as its processors stand still, which is before it has flushed its disks.
        """
        asking = asyncio.create_task(self._ask("stop"))
        try:
            async with asyncio.timeout(OBEY_S):
                await self._stopped.wait()
        except TimeoutError:
            await self.kill()
            return True
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return False

    async def park(self) -> bool:
        """Whether it was sent and can execute nothing any more, since its disks are held here.

        That it stands still is QEMU's own word and no news since; if it goes on at this moment, its disks are
        its own again and cannot be held.
        """
        if self.seen is not Seen.SENT:
            await self.look()
        return self.seen is Seen.SENT and self.hold()

    @property
    def holds(self) -> bool:
        return self._fence.holds

    def hold(self) -> bool:
        """As `park`, of one that was last seen sent."""
        try:
            return self._pidfd >= 0 and self._fence.take(self._pid)
        except OSError as error:
            _log.warning("keeper.disks_not_held", instance=self.instance, error=str(error))
            return False

    async def resume(self) -> None:
        """Continue it if it is plainly paused, or parked here; another copy that was sent away, or is
        arriving, is left alone."""
        was_parked = self._fence.holds
        self._fence.drop()
        if not (self._arrived and self.seen is Seen.PAUSED):  # else its guest waits for this
            await self.look()
        if self.seen is Seen.PAUSED or (self.seen is Seen.SENT and was_parked):
            await self._ask("cont")

    async def _ask(self, command: str) -> None:
        await self._ready.wait()
        try:
            await self._qmp.execute(command)
            await self._look()
        except (QMPError, OSError, EOFError) as error:
            _log.warning("keeper.qemu_refused", instance=self.instance, command=command, error=str(error))

    async def kill(self) -> None:
        """End the process and wait until it has ended.

        Raises:
            Failed: the kernel cannot end it. Nobody may feed the watchdog then.
        """
        if self._pidfd < 0:
            return
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        try:
            async with asyncio.timeout(OBEY_S):
                await self._stopped.wait()
        except TimeoutError as error:
            raise Failed(f"the process of {self.instance} does not end") from error


class Monitors:
    """Follows every QEMU whose keeper socket appears."""

    def __init__(
        self, changed: Callable[[], None], *, sockets: Path = SOCKETS, images: Path = IMAGES
    ) -> None:
        self._changed = changed
        self._sockets = sockets
        self._images = images
        self._followed: dict[Id, Monitor] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def seen(self) -> dict[Id, Seen]:
        return {
            instance: monitor.seen for instance, monitor in self._followed.items() if monitor.seen is not None
        }

    def monitor(self, instance: Id) -> Monitor | None:
        return self._followed.get(instance)

    def held(self, instance: Id) -> bool:
        """Whether its disks are held here."""
        monitor = self._followed.get(instance)
        return monitor is not None and monitor.holds

    async def look(self) -> None:
        """Ask every QEMU, all at once; a hung one costs `OBEY_S` and nothing else."""
        await asyncio.gather(
            *(monitor.look() for monitor in list(self._followed.values()) if monitor.seen is not None)
        )

    async def run(self) -> None:
        """Until cancelled."""
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with Inotify() as inotify:
                inotify.add_watch(self._sockets, Mask.CREATE | Mask.MOVED_TO)
                for path in self._sockets.glob(f"*{SUFFIX}"):
                    self._follow(path)
                async for event in inotify:
                    if event.path is not None and event.path.name.endswith(SUFFIX):
                        self._follow(event.path)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _follow(self, path: Path) -> None:
        task = asyncio.create_task(self._keep(path.name.removesuffix(SUFFIX), path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, instance: Id, path: Path) -> None:
        monitor = Monitor(instance, path, self._changed, self._images)
        self._followed[instance] = monitor
        try:
            await monitor.follow()
        except OSError:
            _log.info("keeper.socket_without_process", instance=instance)
        finally:
            if self._followed.get(instance) is monitor:
                del self._followed[instance]
            self._changed()


async def _connect(path: Path) -> socket.socket:
    """QEMU binds the socket a moment before it listens: try for a while."""
    loop = asyncio.get_running_loop()
    deadline = time.monotonic() + _CONNECT_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, str(path))
        except OSError:
            connection.close()
            if time.monotonic() > deadline or not path.exists():
                raise
            await asyncio.sleep(0.02)  # no event tells of listen(2) on another process's socket
        else:
            return connection


async def _hang_up(qmp: QMPClient) -> None:
    try:
        await qmp.disconnect()
    except (QMPError, OSError, EOFError):
        return
