"""In a blanket: tell, on a virtio-serial port, when each QEMU runs and stops.

Lines of JSON out: {"instance", "running", "at_s"} and {"pong", "at_s"}; in: {"ping"}.
`at_s` is CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from asyncinotify import Inotify, Mask
from qemu.qmp import QMPClient, QMPError

PORT = Path("/dev/virtio-ports/supercloud.observer")
SOCKETS = Path("/run/supercloud/qmp")
SUFFIX = ".observer.sock"
_LINE_BYTES = 4096
_RUNS = {"RESUME": True, "STOP": False, "SHUTDOWN": False}


class Witness:
    """Follows the observer monitor of every QEMU in `sockets` and writes to `port`, both ends of one file."""

    def __init__(self, *, sockets: Path = SOCKETS, port: Path = PORT) -> None:
        self._sockets = sockets
        self._fd = os.open(port, os.O_RDWR | os.O_NONBLOCK)
        self._pending: set[asyncio.Task[None]] = set()
        self._followed: set[str] = set()

    def _tell(self, **line: object) -> None:
        data = json.dumps({**line, "at_s": time.monotonic()}).encode() + b"\n"
        os.set_blocking(self._fd, True)  # a full port delays us rather than losing a fact
        try:
            os.write(self._fd, data)
        finally:
            os.set_blocking(self._fd, False)

    async def run(self) -> None:
        """Until cancelled."""
        self._sockets.mkdir(parents=True, exist_ok=True)
        asyncio.get_running_loop().add_reader(self._fd, self._answer_pings)
        with Inotify() as inotify:
            inotify.add_watch(self._sockets, Mask.CREATE | Mask.MOVED_TO)
            for path in self._sockets.glob(f"*{SUFFIX}"):
                self._follow(path)
            async for event in inotify:
                if event.path is not None and event.path.name.endswith(SUFFIX):
                    self._follow(event.path)

    def _answer_pings(self) -> None:
        try:
            data = os.read(self._fd, _LINE_BYTES)
        except BlockingIOError:
            return
        for line in data.splitlines():
            try:
                ping = json.loads(line)["ping"]
            except (ValueError, KeyError, TypeError):
                continue  # a fragment: the collector asks again
            self._tell(pong=ping)

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
            with monitor.listener(_RUNS) as events:
                status = await monitor.execute("query-status")
                self._tell(instance=instance, running=bool(isinstance(status, dict) and status["running"]))
                async for event in events:
                    self._tell(instance=instance, running=_RUNS[str(event["event"])])
        except (QMPError, OSError, EOFError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._followed.discard(instance)
            self._tell(instance=instance, running=False)


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
    asyncio.run(Witness().run())


if __name__ == "__main__":
    main()
