"""Every QEMU of this blanket, through a monitor of the keeper's own: what it does, and how to end that."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
from asyncinotify import Inotify, Mask
from qemu.qmp import EventListener, QMPClient, QMPError, Runstate

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
#: How long one that begins, and executes nothing meanwhile (Seen.BEGINNING), may take until it answers. Three
#: migrations onto an emulated blanket with a starved processor were ended after ten seconds; how long they
#: would have needed was not measured. So it is generous: nothing is at risk meanwhile, and whoever began it
#: gives it up before. This is for what nobody else ends.
BEGIN_S = 120.0
_CONNECT_S = 5.0
#: A monitor that closed is connected again after this, and after twice as much each time, up to the latter.
_AGAIN_S, _LATEST_AGAIN_S = 0.1, OBEY_S
_FULL_S = 0.5
_EVENTS = {"MIGRATION", "RESUME", "STOP", "SHUTDOWN", "RESET"}
#: QEMU's RunState, where nothing executes.
_STOPPED = {"paused": Seen.PAUSED, "finish-migrate": Seen.SENT, "postmigrate": Seen.SENT}
_log = structlog.get_logger(__name__)


class Monitor:
    """One QEMU process, by its socket and its pidfd (which cannot come to mean another process)."""

    def __init__(
        self,
        instance: Id,
        path: Path,
        changed: Callable[[], None],
        images: Path = IMAGES,
        *,
        appeared: bool = False,
    ) -> None:
        """`appeared`: its socket was seen to appear, so that the process had only begun."""
        self.instance = instance
        self.seen: Seen | None = None  # None: just met, nothing heard yet
        self._path = path
        self._changed = changed
        self._appeared = appeared
        self._qmp = QMPClient(f"keeper-{instance}")
        self._pid = self._pidfd = -1
        self._fence = Fence(images)
        self._arrived = False  # seen paused when all of it had come, and nothing was heard since
        self._ready = asyncio.Event()  # set while the monitor is there to be asked
        self._stopped = asyncio.Event()  # set while it is known not to execute
        self._silence: asyncio.TimerHandle | None = None  # when it will have been silent for too long

    async def follow(self) -> None:
        """From its first words to its process's end.

        Raises:
            OSError: nothing listens at the socket (any more).
        """
        connection = await _connect(self._path)
        self._pid = _peer(connection)
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
            self._end_silence()
            os.close(self._pidfd)
            self._pidfd = -1
            self._fence.drop()
            self._stopped.set()

    async def _watch(self, connection: socket.socket) -> None:
        """Until cancelled. A process whose monitor says nothing is MUTE after a while, so it needs no trust.

        A monitor that is silent keeps its connection: its answer is the event to wait for, and another
        connection would wait behind this one, since QEMU serves one. One that closed is connected again.
        """
        begins = self._appeared and _begun_standing_still(self._pid)
        if begins:
            self._show(Seen.BEGINNING)
        self._begin_silence(BEGIN_S if begins else OBEY_S)
        try:
            await self._converse_again_and_again(connection)
        finally:
            self._show(Seen.MUTE)

    async def _converse_again_and_again(self, connection: socket.socket) -> None:
        loop, pause_s = asyncio.get_running_loop(), _AGAIN_S
        while True:
            since_s = loop.time()
            try:
                await self._converse(connection)
            except (QMPError, OSError, EOFError) as error:
                _log.warning("keeper.monitor_lost", instance=self.instance, error=str(error))
            self._begin_silence(OBEY_S)
            if loop.time() - since_s > _LATEST_AGAIN_S:
                pause_s = _AGAIN_S
            connection = await self._connect_again(pause_s)
            pause_s = min(2 * pause_s, _LATEST_AGAIN_S)

    async def _converse(self, connection: socket.socket) -> None:
        """Over one connection, until it closes.

        Raises:
            QMPError, OSError, EOFError: what came was no monitor's.
        """
        qmp = self._qmp = QMPClient(f"keeper-{self.instance}")
        tasks: list[asyncio.Task[None]] = []
        try:
            await qmp.connect(connection)
            with qmp.listener(_EVENTS) as events:
                self._ready.set()
                await self.look()
                # A listener does not end with the connection; the run state does.
                tasks = [asyncio.create_task(self._hear(events)), asyncio.create_task(_closed(qmp))]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ready.clear()
            self._arrived = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _hang_up(qmp)

    async def _hear(self, events: EventListener) -> None:
        async for event in events:
            await self._heard(str(event["event"]))

    async def _connect_again(self, pause_s: float) -> socket.socket:
        """To the same process; its end is not seen by this."""
        while True:
            await asyncio.sleep(pause_s)
            with suppress(OSError):
                connection = await _connect(self._path)
                if _peer(connection) == self._pid:
                    return connection
                connection.close()  # a later process has its name
            pause_s = min(2 * pause_s, _LATEST_AGAIN_S)

    def _begin_silence(self, seconds: float) -> None:
        """MUTE when they are over, unless something is heard before. One that lasts already goes on."""
        if self._silence is None:
            self._silence = asyncio.get_running_loop().call_later(seconds, self._show, Seen.MUTE)

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

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
        """Ask what it does; MUTE if it does not say within `OBEY_S`. Where nobody is there to be asked, its
        silence is counted already."""
        if not self._ready.is_set():
            return
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
        self._end_silence()
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
        try:
            async with asyncio.timeout(OBEY_S):  # for no longer: it may have to be paused before it answers
                await self._ready.wait()
                if not (self._arrived and self.seen is Seen.PAUSED):  # else its guest waits for this
                    await self.look()
                if self.seen is Seen.PAUSED or (self.seen is Seen.SENT and was_parked):
                    await self._ask("cont")
        except TimeoutError:
            _log.warning("keeper.not_resumed_yet", instance=self.instance)

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
        self._sockets_met: dict[Id, tuple[int, int]] = {}  # inode and time of those
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
                    self._follow(path, appeared=False)
                async for event in inotify:
                    if event.path is not None and event.path.name.endswith(SUFFIX):
                        self._follow(event.path, appeared=True)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _follow(self, path: Path, *, appeared: bool) -> None:
        instance = path.name.removesuffix(SUFFIX)
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        socket_file = (found.st_ino, found.st_ctime_ns)
        if self._sockets_met.get(instance) == socket_file:
            return  # found when we came, and told of as new besides: it serves one of us only
        self._sockets_met[instance] = socket_file
        monitor = Monitor(instance, path, self._changed, self._images, appeared=appeared)
        task = asyncio.create_task(self._keep(instance, monitor))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, instance: Id, monitor: Monitor) -> None:
        self._followed[instance] = monitor
        try:
            await monitor.follow()
        except OSError:
            _log.info("keeper.socket_without_process", instance=instance)
        finally:
            if self._followed.get(instance) is monitor:
                del self._followed[instance], self._sockets_met[instance]
            self._changed()


async def _connect(path: Path) -> socket.socket:
    """QEMU binds the socket a moment before it listens: try for a while. Where a queue is full of keepers
    that ended before they were served, as long as it is.

    Raises:
        OSError: nothing listens there.
    """
    deadline = time.monotonic() + _CONNECT_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.setblocking(False)
        try:
            connection.connect(str(path))  # to a UNIX socket it is done at once, or not at all
        except BlockingIOError:
            connection.close()
            await asyncio.sleep(_FULL_S)
        except OSError:
            connection.close()
            if time.monotonic() > deadline or not path.exists():
                raise
            await asyncio.sleep(0.02)  # no event tells of listen(2) on another process's socket
        else:
            return connection


def _peer(connection: socket.socket) -> int:
    """The process that listens there."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _begun_standing_still(pid: int) -> bool:
    """Whether it was told to execute nothing until somebody says `cont`, as libvirt tells every one."""
    try:
        return b"-S" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


async def _closed(qmp: QMPClient) -> None:
    while qmp.runstate is Runstate.RUNNING:
        await qmp.runstate_changed()


async def _hang_up(qmp: QMPClient) -> None:
    try:
        await qmp.disconnect()
    except (QMPError, OSError, EOFError):
        return
