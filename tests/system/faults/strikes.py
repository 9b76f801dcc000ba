"""What each kind of fault does: something before the operation, the blow at the moment, the healing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from supercloud.model.names import new_id

from .cells import Kind
from .machines import Machine
from .system import System

_PID = "$(cat /etc/service/{service}/supervise/pid)"


@dataclass(slots=True)
class Scene:
    """`machine`: of the blanket that the fault befalls."""

    system: System
    machine: Machine
    scratch: Path
    outlast_s: float
    #: One of its own: a label that is there already stands for what was kept under it before.
    snapshot: str = field(default_factory=lambda: f"before-{new_id()[:8]}")
    _stopped: list[psutil.Process] = field(default_factory=list)

    @property
    def backup(self) -> Path:
        return self.scratch / "backup.tar"

    def controller(self) -> psutil.Process:
        control = self.system.control()
        ports = control.ports()
        process = control.daemon(ports).process() if ports else None
        assert process is not None, "the control plane does not run"
        return process

    def kill_controller(self) -> None:
        process = self.controller()
        process.kill()
        process.wait(30)


Act = Callable[[Scene], None]


def _nothing(_: Scene) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    blow: Act
    prepare: Act = _nothing
    heal: Act = _nothing


def _outlast(scene: Scene) -> None:
    """The fault is that it lasts: so long that every right which was held at the blow is over."""
    time.sleep(scene.outlast_s)


def _hang_controller(scene: Scene) -> None:
    process = scene.controller()
    process.send_signal(signal.SIGSTOP)
    try:
        _outlast(scene)
    finally:
        process.send_signal(signal.SIGCONT)


def _kill_both(scene: Scene) -> None:
    scene.kill_controller()
    keystore = scene.system.control().keystore.process()
    assert keystore is not None, "the key store does not run"
    keystore.kill()
    keystore.wait(30)


def _restore(scene: Scene) -> None:
    scene.kill_controller()
    scene.system.control().archive("restore", scene.backup)


def _signalled(service: str, name: str) -> Act:
    return lambda scene: scene.machine.shell(f"kill -{name} {_PID.format(service=service)}")


def _frozen(scene: Scene) -> None:
    scene.machine.freeze()
    _outlast(scene)


def _cut(scene: Scene) -> None:
    scene.machine.link(up=False)
    _outlast(scene)


def _snapshot(scene: Scene) -> None:
    """Until the right is renewed, whoever is rolled back to it knows all that the store does."""
    scene.machine.snapshot(scene.snapshot)
    scene.system.until_renewed()


def _roll_back(scene: Scene) -> None:
    """Frozen first, so that the machine goes on from the snapshot and its keeper has not looked yet."""
    scene.machine.freeze()
    scene.machine.roll_back(scene.snapshot)


STRIKES: dict[Kind, Strike] = {
    Kind.CONTROLLER_KILLED: Strike(blow=Scene.kill_controller, heal=lambda scene: scene.system.up()),
    Kind.CONTROLLER_HUNG: Strike(blow=_hang_controller),
    Kind.STORE_RESTARTED: Strike(blow=_kill_both, heal=lambda scene: scene.system.up()),
    Kind.STORE_RESTORED: Strike(
        prepare=lambda scene: scene.system.control().archive("backup", scene.backup),
        blow=_restore,
        heal=lambda scene: scene.system.up(),
    ),
    Kind.AGENT_KILLED: Strike(blow=_signalled("agent", "KILL")),
    Kind.KEEPER_KILLED: Strike(blow=_signalled("keeper", "KILL")),
    Kind.KEEPER_HUNG: Strike(
        blow=_signalled("keeper", "STOP"), heal=lambda scene: scene.system.until_left(scene.machine)
    ),
    Kind.BLANKET_KILLED: Strike(
        blow=lambda scene: scene.machine.kill(), heal=lambda scene: scene.machine.start()
    ),
    Kind.BLANKET_FROZEN: Strike(blow=_frozen, heal=lambda scene: scene.machine.thaw()),
    Kind.BLANKET_ROLLED_BACK: Strike(
        prepare=_snapshot,
        blow=_roll_back,
        heal=lambda scene: scene.machine.thaw(),
    ),
    Kind.LINK_CUT: Strike(blow=_cut, heal=lambda scene: scene.machine.link(up=True)),
}
