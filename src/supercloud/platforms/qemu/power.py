"""How a running machine is looked at, shut down in order, and switched off."""

from __future__ import annotations

import asyncio

from supercloud.model.errors import Failed, Unavailable
from supercloud.platforms.qemu.home import Home
from supercloud.platforms.qemu.monitor import session
from supercloud.platforms.qemu.process import Process
from supercloud.ports.platform import MachineState

_INSPECT_S = 3.0
_QUIT_S = 10.0
_BUTTON_S = 3.0  # a guest that is still booting does not see the button: press it again
_SUSPENDED = "its QEMU was stopped by a signal"


async def state_of(home: Home, running: Process | None) -> tuple[MachineState, str]:
    """The state of a machine whose process is `running`, and a remark if there is something odd."""
    if running is None:
        return MachineState.STOPPED, ""
    if running.suspended:
        return MachineState.FROZEN, _SUSPENDED
    try:
        async with session(home.path, timeout_s=_INSPECT_S) as monitor:
            status = await monitor.status()
    except (Failed, Unavailable) as error:
        return await _silent(running, error.message)
    if status == "paused":
        return MachineState.FROZEN, ""
    return MachineState.RUNNING, "" if status == "running" else f"QEMU says {status}"


async def _silent(running: Process, why: str) -> tuple[MachineState, str]:
    """What a machine is whose monitor does not answer."""
    if await running.wait(0):
        return MachineState.STOPPED, ""
    if running.suspended:
        return MachineState.FROZEN, _SUSPENDED
    return MachineState.RUNNING, why


async def down(home: Home, running: Process, *, timeout_s: float) -> None:
    """Press the power button until the machine is off or `timeout_s` is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not running.suspended and (left := deadline - loop.time()) > 0:
        try:
            async with session(home.path) as monitor:
                if await monitor.status() == "paused":
                    await monitor.execute("cont")  # frozen, it could not shut down in order
                await monitor.execute("system_powerdown")
        except (Failed, Unavailable):
            return  # it is ending, or past talking to
        if await running.wait(min(left, _BUTTON_S)):
            return


async def off(home: Home, running: Process) -> None:
    """Let QEMU write out what it holds of the disk and end. Whether it ended is for the caller to see."""
    if running.suspended or await running.wait(0):
        return
    try:
        async with session(home.path, timeout_s=_INSPECT_S) as monitor:
            await monitor.execute("quit")
    except (Failed, Unavailable):
        return
    await running.wait(_QUIT_S)
