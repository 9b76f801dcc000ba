"""Hands on the platform's machine: what a failing domain, or its admin, would do to a blanket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from supercloud.images.blanket import BuiltImages
from supercloud.model.names import Id
from supercloud.platforms.qemu.command import BINARY, CONSOLE_LOG, OBSERVER_SOCKET
from supercloud.platforms.qemu.driver import QemuPlatform
from supercloud.platforms.qemu.process import Process
from supercloud.platforms.qemu.record import read
from supercloud.ports.platform import MachineState

T = TypeVar("T")
_SHELL_S = 120.0
_END_S = 30.0
_DONE = "fault-done"


class Machine:
    """One blanket's VM."""

    def __init__(self, platforms: Path, provider: Id, blanket: Id) -> None:
        self.id = blanket
        self._platforms = platforms
        self._state = platforms / provider
        self._home = self._state / "machines" / blanket

    @property
    def observer(self) -> Path:
        return self._home / OBSERVER_SOCKET

    def kill(self) -> None:
        """Its QEMU, as a power cut would."""
        record = read(self._home)
        assert record is not None and record.pid is not None, f"machine {self.id} does not run"
        qemu = Process.find(record.pid, BINARY, self._home)
        assert qemu is not None, f"machine {self.id} has no process"
        with qemu:
            qemu.kill()
            assert asyncio.run(qemu.wait(_END_S)), f"QEMU {record.pid} does not die"

    def start(self) -> None:
        self._do(lambda platform: platform.start(self.id))

    def freeze(self) -> None:
        self._do(lambda platform: platform.freeze(self.id))

    def thaw(self) -> None:
        self._do(lambda platform: platform.thaw(self.id))

    def link(self, *, up: bool) -> None:
        self._do(lambda platform: platform.link(self.id, up=up))

    def snapshot(self, label: str) -> None:
        self._do(lambda platform: platform.snapshot(self.id, label))

    def roll_back(self, label: str) -> None:
        self._do(lambda platform: platform.rollback(self.id, label))

    def shell(self, command: str) -> None:
        """Have the root shell on its console run `command`; return when that is done."""
        self._do(lambda platform: self._typed(platform, command))

    def mend(self) -> None:
        """It runs, is not frozen, and its cable is in."""
        state = self._do(lambda platform: platform.inspect(self.id)).state
        if state is MachineState.STOPPED:
            self.start()
            return
        if state is MachineState.FROZEN:
            self.thaw()
        self.link(up=True)

    async def _typed(self, platform: QemuPlatform, command: str) -> None:
        log = self._home / CONSOLE_LOG
        begin = log.stat().st_size
        # The echo of what is typed does not hold the mark: the shell puts it together.
        await platform.console_write(self.id, f'{command}; echo "{_DONE[:5]}""{_DONE[5:]}"\n'.encode())
        async with asyncio.timeout(_SHELL_S):
            async for _ in await platform.console(self.id):
                with log.open("rb") as file:
                    file.seek(begin)
                    if _DONE.encode() in file.read():
                        return

    def destroy(self) -> None:
        self._do(lambda platform: platform.destroy(self.id))

    def _do(self, work: Callable[[QemuPlatform], Awaitable[T]]) -> T:
        async def done() -> T:
            return await work(QemuPlatform(self._state, BuiltImages(), cache_dir=self._platforms))

        return asyncio.run(done())


def destroy_all(platforms: Path) -> None:
    """Every machine of every domain."""
    for home in platforms.glob("*/machines/*"):
        Machine(platforms, home.parent.parent.name, home.name).destroy()
