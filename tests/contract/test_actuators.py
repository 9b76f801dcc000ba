"""One suite for every actuator: the simulated one, nftables in a namespace, the hypervisor's pause."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import actuator_checks as checks
import pytest

from supercloud.agent.reactions import PauseReactions
from supercloud.agent.restarts import ComponentReactions, RestartReactions
from supercloud.model.errors import Failed, NotFound
from supercloud.model.reactions import Deed
from supercloud.ports.actuator import Actuator
from supercloud.ports.agent import RunState
from supercloud.security.actuators import Actuators
from supercloud.security.simulated import SimulatedActuator

pytestmark = pytest.mark.contract


class Processors:
    """A hypervisor of one instance."""

    def __init__(self) -> None:
        self.now = RunState.RUNNING
        self.pauses = self.resumes = self.reboots = 0

    async def pause(self, instance: str) -> None:
        self.now = RunState.PAUSED
        self.pauses += 1

    async def resume(self, instance: str) -> None:
        self.now = RunState.RUNNING
        self.resumes += 1

    async def reboot(self, instance: str) -> None:
        assert instance == checks.HERE
        self.reboots += 1

    async def state(self, instance: str) -> RunState:
        if instance != checks.HERE:
            return RunState.ABSENT
        return self.now


class Supervisor:
    """runit of one program: `sv restart` gives it another process, if it takes any."""

    def __init__(self, services: Path, program: str = "observer") -> None:
        self.services = services
        self.restarts: list[tuple[str, ...]] = []
        self.stuck = False
        self.pid = 4711
        (services / program / "supervise").mkdir(parents=True)
        self._status = services / program / "supervise" / "status"
        self._write()

    def _write(self) -> None:
        self._status.write_bytes(bytes(12) + self.pid.to_bytes(4, "little") + b"\0u\0\1")

    async def sv(self, *argv: str) -> None:
        self.restarts.append(argv)
        self.pid += 0 if self.stuck else 1
        self._write()


async def _yes(_: str) -> bool:
    return True


async def _no(_: str) -> bool:
    return False


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", ["simulated", "pause", "restart", "component", "several"])
async def test_every_actuator(check: checks.Check, kind: str, tmp_path: Path) -> None:
    simulated = SimulatedActuator(now=time.time, objects={checks.HERE})
    pause = PauseReactions(Processors(), tmp_path / "paused", _yes)
    supervisor = Supervisor(tmp_path / "service")
    restart = RestartReactions(Processors(), tmp_path / "restarted")
    component = ComponentReactions(
        supervisor.sv, tmp_path / "components", blanket=checks.HERE, services=supervisor.services
    )
    made: dict[str, Actuator] = {
        "restart": restart,
        "component": component,
        "simulated": simulated,
        "pause": pause,
        "several": Actuators([pause, simulated]),
    }
    for deed in sorted(made[kind].takes):
        await check(made[kind], deed)


def test_nftables_in_a_namespace_and_what_packets_say() -> None:
    """Real nftables and real packets: the suite, then each reaction between two guests on a bridge."""
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    argv = [*own, sys.executable, checks.__file__]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.endswith("ok\n")


async def test_what_others_paused_is_not_ours_to_resume(tmp_path: Path) -> None:
    processors = Processors()
    actuator = PauseReactions(processors, tmp_path / "paused", _yes)
    one = checks.command(Deed.PAUSE)
    await processors.pause(checks.HERE)
    await actuator.undo(one)
    assert processors.now is RunState.PAUSED
    assert not await actuator.look(one)


async def test_killed_before_it_paused_it_is_not_there_and_is_done_again(tmp_path: Path) -> None:
    processors = Processors()
    one = checks.command(Deed.PAUSE)
    PauseReactions(processors, tmp_path / "paused", _yes)._write(checks.HERE, one.id)  # and there it died
    actuator = PauseReactions(processors, tmp_path / "paused", _yes)
    assert not await actuator.look(one)
    await actuator.do(one)
    assert await actuator.look(one)
    assert processors.pauses == 1


async def test_without_a_right_it_does_not_go_on(tmp_path: Path) -> None:
    processors = Processors()
    actuator = PauseReactions(processors, tmp_path / "paused", _no)
    one = checks.command(Deed.PAUSE)
    await actuator.do(one)
    await actuator.undo(one)
    assert (processors.now, processors.resumes) == (RunState.PAUSED, 0)


async def test_what_has_stopped_is_not_paused(tmp_path: Path) -> None:
    processors = Processors()
    processors.now = RunState.DEFINED
    with pytest.raises(NotFound, match="is defined here"):
        await PauseReactions(processors, tmp_path / "paused", _yes).do(checks.command(Deed.PAUSE))


async def test_a_reset_is_done_once_however_often_it_is_ordered(tmp_path: Path) -> None:
    processors = Processors()
    one = checks.command(Deed.RESTART)
    for _ in range(3):
        await RestartReactions(processors, tmp_path / "restarted").do(one)
    assert processors.reboots == 1
    processors.now = RunState.PAUSED
    assert not await RestartReactions(processors, tmp_path / "restarted").look(one), "it does not run"


async def test_a_program_was_begun_anew_if_its_process_is_another(tmp_path: Path) -> None:
    """Also if the agent was killed, or was itself what was begun anew: the note is from before."""
    supervisor = Supervisor(tmp_path / "service")

    def actuator() -> ComponentReactions:
        return ComponentReactions(
            supervisor.sv, tmp_path / "notes", blanket=checks.HERE, services=supervisor.services
        )

    one = checks.command(Deed.RENEW)
    supervisor.stuck = True
    with pytest.raises(Failed, match="did not begin anew"):
        await actuator().do(one)
    assert not await actuator().look(one)
    supervisor.stuck = False
    await supervisor.sv("it died at last")
    assert await actuator().look(one)
    await actuator().do(one)
    assert len(supervisor.restarts) == 2, "what is new already is left alone"
    expected = ("sv", "-w", "12", "restart", str(supervisor.services / "observer"))
    assert supervisor.restarts[0] == expected


async def test_what_is_on_its_way_here_stands_still_when_it_has_come(tmp_path: Path) -> None:
    processors = Processors()
    actuator = PauseReactions(processors, tmp_path / "paused", _yes, _yes)
    one = checks.command(Deed.PAUSE)
    for state in (RunState.ABSENT, RunState.INCOMING, RunState.PAUSED):
        processors.now = state
        await actuator.do(one)
        assert await actuator.look(one)
        assert actuator.holds(checks.HERE)
    assert processors.pauses == 0
    await actuator.undo(one)
    assert not actuator.holds(checks.HERE)
