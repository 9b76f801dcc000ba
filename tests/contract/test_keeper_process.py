"""The keeper's hands on a real QEMU: it pauses, ends and pauses again what runs without a right."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError, QMPClient

from supercloud.blanket.volumes import qemu_img
from supercloud.keeper import keeper as keeper_module
from supercloud.keeper import monitors as monitors_module
from supercloud.keeper.journal import Journal
from supercloud.keeper.keeper import Hands, Keeper
from supercloud.keeper.link import Grant, Happened
from supercloud.keeper.monitors import SUFFIX, Monitors
from supercloud.keeper.rights import Rights, Seen, Snapshot
from supercloud.keeper.stops import Moment
from supercloud.model.names import new_id
from supercloud.model.right import RunRight
from supercloud.ports.agent import InstanceRef
from supercloud.ports.clock import Instant
from supercloud.ports.controller import RenewalAnswer, RenewRights, RightsRenewed

pytestmark = pytest.mark.contract

BOUND_S = 20.0


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that leaves room for a socket's name (108 bytes in all)."""
    with tempfile.TemporaryDirectory(prefix="sck-") as folder:
        yield Path(folder)


class JumpingClock:
    """HolderClock that only the test moves, beside the real passing of time."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.rtc_ahead_s = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def instant(self) -> Instant:
        return Instant("this-boot", self.now())

    def rtc_s(self) -> float:
        return float(int(self.now() + self.rtc_ahead_s))


class Agent:
    """keeper.link.Relay: renews while `answers`, and keeps what it was told."""

    def __init__(self) -> None:
        self.answers = True
        self.contested = False
        self.events: list[Happened] = []
        self._nonces = count(1)

    async def renew(self, request: RenewRights) -> RightsRenewed:
        if not self.answers:
            return RightsRenewed(
                answers=tuple(
                    RenewalAnswer(instance=one.instance, refused="unavailable") for one in request.renewals
                )
            )
        return RightsRenewed(
            answers=tuple(
                RenewalAnswer(instance=one.instance, right=self._renewed(one.instance))
                for one in request.renewals
            )
        )

    def _renewed(self, instance: str) -> RunRight:
        return replace(_right(instance, f"{next(self._nonces):032x}"), contested=self.contested)

    async def happened(self, request: Happened) -> None:
        self.events.append(request)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def _right(instance: str, nonce: str = "0" * 32) -> RunRight:
    return RunRight(instance=instance, epoch=1, blanket=new_id(), nonce=nonce, length_s=60, grace_s=30)


class Machine:
    """A QEMU with nothing to boot, which runs its firmware for ever; and a second monitor as libvirt's."""

    def __init__(self, instance: str, process: asyncio.subprocess.Process, qmp: QMPClient) -> None:
        self.instance = instance
        self.process = process
        self.qmp = qmp

    async def status(self) -> str:
        said = await self.qmp.execute("query-status")
        assert isinstance(said, dict)
        return str(said["status"])


@asynccontextmanager
async def machine(folder: Path, *others: str, disk: Path | None = None) -> AsyncIterator[Machine]:
    """`others`: more arguments. `disk`: an image to make and give it, encrypted as a volume is."""
    instance = new_id()
    drive = () if disk is None else await _encrypted(disk)
    other = folder / f"{instance}.other.sock"
    qmp = QMPClient("test")
    listening = asyncio.ensure_future(qmp.start_server_and_accept(str(other)))
    while not other.exists() and not listening.done():  # noqa: ASYNC110 - the library gives no event for its own listen()
        await asyncio.sleep(0.01)
    process = await asyncio.create_subprocess_exec(
        "qemu-system-x86_64",
        *("-machine", "q35", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", "-S"),
        *("-qmp", f"unix:{folder / instance}{SUFFIX},server=on,wait=off", "-qmp", f"unix:{other}"),
        *drive,
        *others,
    )
    try:
        await listening
        yield Machine(instance, process, qmp)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        with suppress(Exception):
            await qmp.disconnect()


async def _encrypted(disk: Path) -> tuple[str, ...]:
    secret = ("--object", "secret,id=key,data=no-secret")
    luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"
    await qemu_img("create", "-q", "-f", "qcow2", *secret, "-o", luks, str(disk), "16M")
    driven = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={disk},encrypt.format=luks"
    return (
        *("-object", "secret,id=key,data=no-secret"),
        *("-blockdev", f"{driven},encrypt.key-secret=key", "-device", "virtio-blk-pci,drive=disk"),
    )


async def _tells_of_migration(qemu: Machine) -> None:
    """As libvirt has every QEMU do."""
    await qemu.qmp.execute(
        "migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}
    )


async def send_away(qemu: Machine, to: str = "exec:cat >/dev/null") -> None:
    """Everything that it is, as libvirt has it done."""
    await _tells_of_migration(qemu)
    with qemu.qmp.listener("MIGRATION") as events:
        await qemu.qmp.execute("migrate", {"uri": to})
        async with asyncio.timeout(BOUND_S):
            async for event in events:
                if event["data"]["status"] == "completed":  # type: ignore[index]
                    break
            while await qemu.status() != "postmigrate":  # noqa: ASYNC110 - QEMU says nothing of that moment
                await asyncio.sleep(0.01)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.images = folder / "volumes"
        self.images.mkdir(exist_ok=True)
        self.clock = JumpingClock()
        self.agent = Agent()
        self.fed = 0
        self.permits: list[dict[str, float]] = []
        self.sockets = folder / "qmp"
        self.sockets.mkdir(exist_ok=True)
        self._journal = folder / "keeper.sqlite"

    def _feed(self) -> None:
        self.fed += 1

    async def _permit(self, seconds: object) -> None:
        assert isinstance(seconds, dict)
        self.permits.append(seconds)

    @asynccontextmanager
    async def keeper(self) -> AsyncIterator[tuple[Keeper, Monitors]]:
        journal = Journal(self._journal)
        made: list[Monitors] = []

        def monitors(changed: Callable[[], None]) -> Monitors:
            made.append(Monitors(changed, sockets=self.sockets, images=self.images))
            return made[0]

        def rights(at: Moment, restored: Snapshot | None) -> Rights:
            return Rights(nonce=lambda: os.urandom(16).hex(), at=at, restored=restored)

        keeper = Keeper(
            clock=self.clock,
            journal=journal,
            hands=Hands(permit=self._permit, feed=self._feed),
            rights=rights,
            monitors=monitors,
        )
        tasks = [asyncio.create_task(keeper.run()), asyncio.create_task(keeper.serve(self.agent))]
        try:
            yield keeper, made[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            journal.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - what QEMU does to itself has no event in this process
            await asyncio.sleep(0.02)


async def test_expiry_pauses_renewal_resumes_and_grace_ends(short: Path) -> None:
    rig = Rig(short)
    async with rig.keeper() as (keeper, monitors), machine(rig.sockets) as qemu:
        report = await keeper.grant(Grant(right=_right(qemu.instance)))
        assert report.may_run and report.left_s > 50
        await qemu.qmp.execute("cont")
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
        await until(lambda: bool(rig.permits) and rig.permits[-1][qemu.instance] > 50)

        rig.agent.answers = False
        rig.clock.ahead_s += 61
        await until(lambda: "instance.paused" in rig.agent.kinds())
        assert await qemu.status() == "paused"
        assert rig.permits[-1] == {qemu.instance: 0.0}

        rig.agent.answers = True  # the link heals before anybody took over
        await until(lambda: "instance.resumed" in rig.agent.kinds())
        assert await qemu.status() == "running"

        rig.agent.answers = False
        rig.clock.ahead_s += 61
        await until(lambda: rig.agent.kinds().count("instance.paused") == 2)
        rig.clock.ahead_s += 31
        async with asyncio.timeout(BOUND_S):
            await qemu.process.wait()
        await until(lambda: "instance.stopped" in rig.agent.kinds())


async def test_whatever_resumes_without_a_right_is_stopped_again(short: Path) -> None:
    rig = Rig(short)
    async with rig.keeper() as (_, monitors), machine(rig.sockets) as qemu:
        for times in (1, 2, 3):
            await qemu.qmp.execute("cont")  # as libvirt does after a failed migration
            await until(lambda times=times: rig.agent.kinds().count("instance.paused") == times)  # type: ignore[misc]
            assert await qemu.status() == "paused"
            assert monitors.seen()[qemu.instance] is Seen.PAUSED
        assert qemu.process.returncode is None


async def test_a_machine_that_was_stopped_pauses_everything_until_renewed(short: Path) -> None:
    rig = Rig(short)
    async with rig.keeper() as (keeper, _), machine(rig.sockets) as qemu:
        await keeper.grant(Grant(right=_right(qemu.instance)))
        await qemu.qmp.execute("cont")
        rig.agent.answers = False
        rig.clock.rtc_ahead_s += 20
        await until(lambda: "instance.paused" in rig.agent.kinds())
        assert rig.agent.events[0].data["reason"] == "machine-stopped"
        assert await qemu.status() == "paused"
        rig.agent.answers = True
        await until(lambda: "instance.resumed" in rig.agent.kinds())


async def test_a_restarted_keeper_goes_on_with_its_rights_and_the_running_qemu(short: Path) -> None:
    rig = Rig(short)
    async with machine(rig.sockets) as qemu:
        async with rig.keeper() as (keeper, _):
            await keeper.grant(Grant(right=_right(qemu.instance)))
            await qemu.qmp.execute("cont")
        async with rig.keeper() as (keeper, monitors):
            await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
            (held,) = (await keeper.report()).held
            assert held.may_run and held.epoch == 1
            assert await qemu.status() == "running"
            rig.agent.answers = False
            rig.clock.ahead_s += 61
            await until(lambda: "instance.paused" in rig.agent.kinds())


async def test_a_qemu_that_does_not_obey_is_ended_and_the_watchdog_hungers_meanwhile(short: Path) -> None:
    rig = Rig(short)
    async with rig.keeper() as (keeper, monitors), machine(rig.sockets) as qemu:
        await keeper.grant(Grant(right=_right(qemu.instance)))
        await qemu.qmp.execute("cont")
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
        os.kill(qemu.process.pid, signal.SIGSTOP)  # its monitor says nothing any more
        rig.agent.answers = False
        rig.clock.ahead_s += 61
        fed = rig.fed
        async with asyncio.timeout(BOUND_S):
            await qemu.process.wait()
        assert rig.fed <= fed + 2  # one before it was found mute, one after its end
        await until(lambda: "instance.stopped" in rig.agent.kinds())
        hungry = rig.fed
        await until(lambda: rig.fed > hungry)  # nothing runs without a right any more: it is fed again


@dataclass(frozen=True)
class Beginning:
    instance: str
    process: asyncio.subprocess.Process
    gate: Path

    async def goes_on(self) -> None:
        _, writer = await asyncio.open_unix_connection(self.gate)
        writer.close()


@asynccontextmanager
async def beginning(folder: Path, *options: str) -> AsyncIterator[Beginning]:
    """A QEMU that is held up as it begins: its monitor for the keeper is there and not served, since another
    one, made after it, waits for somebody."""
    instance, gate = new_id(), folder / "gate"
    process = await asyncio.create_subprocess_exec(
        "qemu-system-x86_64",
        *("-machine", "q35", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", *options),
        *("-qmp", f"unix:{folder / instance}{SUFFIX},server=on,wait=off"),
        *("-qmp", f"unix:{gate},server=on,wait=on"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Beginning(instance, process, gate)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_qemu_that_begins_slowly_and_has_no_right_is_waited_for(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors_module, "OBEY_S", 1.0)
    rig = Rig(short)
    async with rig.keeper() as (_, monitors), beginning(rig.sockets, "-S", "-incoming", "defer") as qemu:
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.BEGINNING)
        fed = rig.fed
        await asyncio.sleep(3.5)  # in 1 s one that may run is mute, in another it is ended
        assert monitors.seen()[qemu.instance] is Seen.BEGINNING
        assert qemu.process.returncode is None and rig.fed > fed, "it executes nothing: nobody is at fault"
        await qemu.goes_on()
        await until(lambda: monitors.seen()[qemu.instance] is Seen.IDLE)
        assert rig.agent.events == []


async def test_one_that_begins_is_ended_once_its_right_has(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever began it may have it go on for as long as it was allowed to: nobody waits after that."""
    monkeypatch.setattr(monitors_module, "OBEY_S", 1.0)
    rig = Rig(short)
    async with rig.keeper() as (keeper, monitors), beginning(rig.sockets, "-S") as qemu:
        await keeper.grant(Grant(right=_right(qemu.instance)))
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.BEGINNING)
        rig.agent.answers = False
        rig.clock.ahead_s += 61
        async with asyncio.timeout(BOUND_S):
            await qemu.process.wait()
        await until(lambda: "instance.stopped" in rig.agent.kinds())


async def test_one_that_never_comes_to_answer_is_ended(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors_module, "OBEY_S", 1.0)
    monkeypatch.setattr(monitors_module, "BEGIN_S", 1.0)
    rig = Rig(short)
    async with rig.keeper() as (_, _), beginning(rig.sockets, "-S") as qemu:
        async with asyncio.timeout(BOUND_S):
            await qemu.process.wait()
        await until(lambda: "instance.stopped" in rig.agent.kinds())


@pytest.mark.parametrize("met", ["begun before", "begins running"])
async def test_what_may_have_run_is_not_taken_for_one_that_begins(
    short: Path, monkeypatch: pytest.MonkeyPatch, met: str
) -> None:
    """A keeper that comes back cannot know what it was told meanwhile; and not every QEMU stands still."""
    monkeypatch.setattr(monitors_module, "OBEY_S", 1.0)
    rig = Rig(short)
    stands_still = ("-S",) if met == "begun before" else ()
    async with beginning(rig.sockets, *stands_still) as qemu, AsyncExitStack() as keepers:
        if met == "begun before":
            await until(qemu.gate.exists)
        _, monitors = await keepers.enter_async_context(rig.keeper())
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.MUTE)
        async with asyncio.timeout(BOUND_S):
            await qemu.process.wait()


async def test_one_that_fell_silent_under_its_right_is_heard_again(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors_module, "OBEY_S", 1.0)
    monkeypatch.setattr(keeper_module, "_LOOK_S", 0.2)
    rig = Rig(short)
    async with rig.keeper() as (keeper, monitors), machine(rig.sockets) as qemu:
        await keeper.grant(Grant(right=_right(qemu.instance)))
        await qemu.qmp.execute("cont")
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
        os.kill(qemu.process.pid, signal.SIGSTOP)
        await until(lambda: monitors.seen()[qemu.instance] is Seen.MUTE)
        os.kill(qemu.process.pid, signal.SIGCONT)
        await until(lambda: monitors.seen()[qemu.instance] is Seen.RUNNING)
        assert rig.agent.events == [] and await qemu.status() == "running"


async def test_a_monitor_that_closed_is_connected_again_and_obeys(short: Path) -> None:
    rig = Rig(short)
    async with rig.keeper() as (keeper, monitors), machine(rig.sockets) as qemu:
        await keeper.grant(Grant(right=_right(qemu.instance)))
        await qemu.qmp.execute("cont")
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
        monitor = monitors.monitor(qemu.instance)
        assert monitor is not None
        for _ in range(3):
            before = monitor._qmp
            assert before._writer is not None
            before._writer.transport.abort()
            await until(lambda before=before: monitor._qmp is not before and monitor._ready.is_set())  # type: ignore[misc]
        await qemu.qmp.execute("stop")
        await until(lambda: monitors.seen()[qemu.instance] is Seen.PAUSED)  # its events are heard as before
        await qemu.qmp.execute("cont")
        await until(lambda: monitors.seen()[qemu.instance] is Seen.RUNNING)
        rig.agent.answers = False
        rig.clock.ahead_s += 61
        await until(lambda: "instance.paused" in rig.agent.kinds())
        assert await qemu.status() == "paused"


async def test_what_is_parked_cannot_be_made_to_go_on_until_it_is_ours_again(short: Path) -> None:
    """The real lock of a real QEMU, with a disk as volumes are: whoever says `cont` is refused."""
    rig = Rig(short)
    disk = rig.images / "volume.qcow2"
    async with machine(rig.sockets, disk=disk) as qemu:
        async with rig.keeper() as (keeper, monitors):
            await keeper.grant(Grant(right=_right(qemu.instance)))
            await qemu.qmp.execute("cont")
            await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
            here = InstanceRef(instance=qemu.instance)
            assert not await keeper.park(here), "it runs"
            rig.agent.contested = True
            await send_away(qemu)
            assert await keeper.park(here)
            assert await keeper.park(here), "a repeat says the same"
            with pytest.raises(ExecuteError, match="lock"):
                await qemu.qmp.execute("cont")
            assert await qemu.status() == "postmigrate"
        async with rig.keeper() as (keeper, monitors):  # a keeper that comes back holds it again
            assert not await keeper.park(here), "it is written down, and nothing is held yet"
            await until(lambda: monitors.held(qemu.instance))
            with pytest.raises(ExecuteError, match="lock"):
                await qemu.qmp.execute("cont")
            rig.agent.contested = False  # the migration was decided for this blanket
            await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
            await until(lambda: "instance.resumed" in rig.agent.kinds())
            assert await qemu.status() == "running"
            assert not monitors.held(qemu.instance) and not (await keeper.park(here))


async def test_what_has_no_disk_to_be_held_by_is_not_parked(short: Path) -> None:
    rig = Rig(short)
    async with rig.keeper() as (keeper, monitors), machine(rig.sockets) as qemu:
        await keeper.grant(Grant(right=_right(qemu.instance)))
        await qemu.qmp.execute("cont")
        await until(lambda: monitors.seen().get(qemu.instance) is Seen.RUNNING)
        rig.agent.contested = True
        await send_away(qemu)
        assert not await keeper.park(InstanceRef(instance=qemu.instance))


async def test_what_arrives_is_seen_complete_by_itself_and_goes_on_without_another_look(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guest stands still for as long as we ask."""
    rig = Rig(short)
    async with (
        rig.keeper() as (keeper, monitors),
        machine(short) as source,
        machine(rig.sockets, "-incoming", "defer") as target,
    ):
        await until(lambda: monitors.seen().get(target.instance) is Seen.IDLE)
        monitor = monitors.monitor(target.instance)
        assert monitor is not None
        await _tells_of_migration(target)
        looks = 0

        async def look() -> None:
            nonlocal looks
            looks += 1

        monkeypatch.setattr(monitor, "look", look)
        await source.qmp.execute("cont")
        await target.qmp.execute("migrate-incoming", {"uri": f"unix:{short / 'memory'}"})
        await send_away(source, f"unix:{short / 'memory'}")
        await until(lambda: monitors.seen().get(target.instance) is Seen.PAUSED)
        before = looks
        monitor.seen = Seen.MUTE  # it has not answered since
        await monitor.resume()
        assert looks > before, "what it was before it fell silent is not believed"
        monitor.seen = Seen.PAUSED
        before = looks
        since_s = keeper.moment().boottime_s
        await keeper.grant(Grant(right=_right(target.instance), counted_from_s=since_s, resume=True))
        assert await target.status() == "running"
        assert monitors.seen()[target.instance] is Seen.RUNNING and looks - before <= 1, "the keeper's own"
        await target.qmp.execute("stop")
        await until(lambda: monitors.seen().get(target.instance) is Seen.PAUSED)
        before = looks
        await monitor.resume()
        assert looks > before, "that it stands still for some other reason is looked at"
