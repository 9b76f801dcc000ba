"""In a blanket: tell, on a virtio-serial port, when each QEMU runs and stops.

Lines of JSON out: {"instance", "running", "at_s"} and {"pong", "running": [instances], "at_s"}; in: {"ping"}.
`at_s` is CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask
from qemu.qmp import QMPClient, QMPError, Runstate

PORT = Path("/dev/virtio-ports/supercloud.observer")
SOCKETS = Path("/run/supercloud/qmp")
SUFFIX = ".observer.sock"
_LINE_BYTES = 4096
_KEPT_LINES = 10_000
_RETRY_S = 0.5
_RUNS = {"RESUME": True, "STOP": False, "SHUTDOWN": False}


class _Port:
    """The virtio port: lines out, lines in, while the host listens; kept (bounded) while it does not.

    With no host at the other end the port is always "ready" and reads nothing, so it is left alone for
    half a second at a time: the kernel has no event for a host that comes back.
    """

    def __init__(self, path: Path, take: Callable[[bytes], None]) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._take = take
        self._lines: deque[bytes] = deque(maxlen=_KEPT_LINES)

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._readable)
        if self._lines:
            loop.add_writer(self._fd, self._writable)

    def put(self, line: bytes) -> None:
        self._lines.append(line)
        self._writable()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _LINE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._take(data)
        else:
            self._leave_alone()

    def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._lines:
                # A line is far smaller than the port's buffer: it is taken whole or not at all.
                os.write(self._fd, self._lines[0])
                self._lines.popleft()
            loop.remove_writer(self._fd)
        except BlockingIOError:
            loop.add_writer(self._fd, self._writable)
        except OSError:
            self._leave_alone()

    def _leave_alone(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        loop.call_later(_RETRY_S, self.open)


class Witness:
    """Follows the observer monitor of every QEMU in `sockets` and writes to `port`, both ends of one file."""

    def __init__(self, *, sockets: Path = SOCKETS, port: Path = PORT) -> None:
        self._sockets = sockets
        self._port = _Port(port, self._answer_pings)
        self._pending: set[asyncio.Task[None]] = set()
        self._followed: set[str] = set()
        self._running: set[str] = set()

    def _tell(self, **line: object) -> None:
        self._port.put(json.dumps({**line, "at_s": time.monotonic()}).encode() + b"\n")

    def _tell_running(self, instance: str, running: bool) -> None:
        if running:
            self._running.add(instance)
        else:
            self._running.discard(instance)
        self._tell(instance=instance, running=running)

    async def run(self) -> None:
        """Until cancelled."""
        self._sockets.mkdir(parents=True, exist_ok=True)
        self._port.open()
        with Inotify() as inotify:
            inotify.add_watch(self._sockets, Mask.CREATE | Mask.MOVED_TO)
            for path in self._sockets.glob(f"*{SUFFIX}"):
                self._follow(path)
            async for event in inotify:
                if event.path is not None and event.path.name.endswith(SUFFIX):
                    self._follow(event.path)

    def _answer_pings(self, data: bytes) -> None:
        for line in data.splitlines():
            try:
                ping = json.loads(line)["ping"]
            except (ValueError, KeyError, TypeError):
                continue  # a fragment: the collector asks again
            self._tell(pong=ping, running=sorted(self._running))

    def _follow(self, path: Path) -> None:
        instance = path.name.removesuffix(SUFFIX)
        if instance in self._followed:
            return
        self._followed.add(instance)
        task = asyncio.create_task(self._witness(instance, path))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _witness(self, instance: str, path: Path) -> None:
        """One QEMU from its first words to its end. The end itself is a fact: nothing runs any more."""
        monitor = QMPClient(f"observer-{instance}")
        try:
            await _connect(monitor, path)
            await self._relay(instance, monitor)
        except (QMPError, OSError, EOFError):
            pass  # it ended: told below
        finally:
            self._followed.discard(instance)
            self._tell_running(instance, False)

    async def _relay(self, instance: str, monitor: QMPClient) -> None:
        async def events() -> None:
            with monitor.listener(_RUNS) as heard:
                status = await monitor.execute("query-status")
                self._tell_running(instance, bool(isinstance(status, dict) and status["running"]))
                async for event in heard:
                    self._tell_running(instance, _RUNS[str(event["event"])])

        # A listener does not end with the connection; the run state does.
        relaying = asyncio.create_task(events())
        try:
            while monitor.runstate is Runstate.RUNNING:
                await monitor.runstate_changed()
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
            await monitor.disconnect()


async def _connect(monitor: QMPClient, path: Path) -> None:
    """QEMU binds the socket a moment before it listens: try for five seconds."""
    deadline = time.monotonic() + 5
    while True:
        try:
            await monitor.connect(str(path))
        except (QMPError, OSError):
            if time.monotonic() > deadline or not path.exists():
                raise
            await asyncio.sleep(0.02)  # no event tells of listen(2) on another process's socket
        else:
            return


def main() -> None:
    if not PORT.exists():
        # A platform without such a port. To end would be to begin anew, again and again.
        signal.pause()
    asyncio.run(Witness().run())


if __name__ == "__main__":
    main()
