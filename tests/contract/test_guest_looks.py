"""Who looks at guests' memory: a process without rights, which may be hostile, hang or end."""

from __future__ import annotations

import asyncio
import itertools
import os
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from still_qemu import qemu

from supercloud.agent.guests import Eyes, Rounds, watch_guests
from supercloud.blanket.domain_xml import domain_name
from supercloud.blanket.guest_memory import GuestMemory
from supercloud.model.errors import Failed, Unavailable
from supercloud.model.names import MIB, new_id
from supercloud.security.introspection.look import Seen

pytestmark = pytest.mark.contract
#: What else than our own may be at the other end, by what it does with a line.
OTHERS = {
    "ends": "sys.exit(0)",
    "hangs": "time.sleep(1000)",
    "says what makes no sense": "line.sendall(b'{}}\\n')",
    "says more than is asked": 'line.sendall(b\'{"seen":{"release":1}}\\n\')',
    "says something else": 'line.sendall(b\'{"order":"stop"}\\n\')',
    "never ends its line": "[line.sendall(bytes(1 << 20)) for _ in range(9)]",
}


def memory(folder: Path, size: int = MIB) -> GuestMemory:
    path = folder / "memory"
    path.write_bytes(bytes(size))
    return GuestMemory(descriptor=os.open(path, os.O_RDONLY), size=size, key="one", pid=os.getpid())


@asynccontextmanager
async def eyes(*argv: str, look_s: float = 60.0) -> AsyncIterator[Eyes]:
    made = Eyes(look_s=look_s, argv=argv) if argv else Eyes(look_s=look_s)
    try:
        yield made
    finally:
        await made.close()


def status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_it_has_no_right_but_to_read_what_it_was_given(tmp_path: Path) -> None:
    async with eyes() as made:
        for _ in range(2):
            with pytest.raises(Unavailable, match="no Linux kernel"):
                await made.look(memory(tmp_path), ())
        assert made._process is not None
        found = status(made._process.pid)
        assert (found["NoNewPrivs"], int(found["CapEff"], 16), int(found["CapPrm"], 16)) == ("1", 0, 0)
        if os.geteuid() == 0:
            assert set(found["Uid"].split()) == set(found["Gid"].split()) == {"64900"}
            assert found["Groups"] == ""
            network = Path(f"/proc/{made._process.pid}/ns/net").readlink()
            assert network != Path("/proc/self/ns/net").readlink()
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, made._process.pid) == min(own + 10, 19), "guests come first"
        limits = Path(f"/proc/{made._process.pid}/limits").read_text()
        assert "Max processes             0 " in limits and "Max file size             0 " in limits
        assert len(list(Path(f"/proc/{made._process.pid}/fd").iterdir())) <= 4  # of two looks, one memory


@pytest.mark.parametrize("does", OTHERS)
async def test_whatever_it_does_the_detector_goes_on(tmp_path: Path, does: str) -> None:
    program = f"""
        import socket, sys, time
        line = socket.socket(fileno=0)
        line.recv(1 << 20)
        {OTHERS[does]}
    """
    async with eyes("-c", textwrap.dedent(program), look_s=5.0) as made:
        with pytest.raises(Failed):
            await made.look(memory(tmp_path), ())
        assert made._process is None
        made._argv = Eyes()._argv
        made._look_s = 60.0
        with pytest.raises(Unavailable, match="no Linux kernel"):
            await made.look(memory(tmp_path), ())  # by another one


async def test_who_waits_for_a_processor_does_not_hang(tmp_path: Path) -> None:
    """Guests come first, and a look that took long said that its guest was odd."""
    program = """
        import socket, sys, time
        line = socket.socket(fileno=sys.stdin.fileno())
        line.recv(1 << 20)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            sum(range(50_000))
            time.sleep(0.05)
        line.sendall(b'{"cannot": "it is late"}\\n')
    """
    async with eyes("-c", textwrap.dedent(program), look_s=1.0) as made:
        with pytest.raises(Unavailable, match="it is late"):
            await made.look(memory(tmp_path), ())


async def test_it_ends_with_who_began_it(tmp_path: Path) -> None:
    made = Eyes()
    with pytest.raises(Unavailable):
        await made.look(memory(tmp_path), ())
    process, line = made._process, made._line
    assert process is not None and line is not None
    line.close()
    assert await asyncio.wait_for(process.wait(), 30) == 0


class Told:
    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def tell(self, events: list[dict[str, object]]) -> None:
        self.events += events


async def test_what_has_no_qemu_is_left_alone_and_the_detector_ends_when_told(
    tmp_path: Path,
) -> None:
    (tmp_path / f"{domain_name(new_id())}.pid").write_text("1\n")
    (tmp_path / "somebodys.pid").write_text("1\n")
    told, made = Told(), Eyes()
    rounds = Rounds(made, told, tmp_path)
    assert [await rounds.once() for _ in range(2)] == [0, 0]
    assert made._process is None and told.events == []
    task = asyncio.create_task(watch_guests(told, tmp_path, every_s=0.01))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_that_stands_still_is_left_alone(tmp_path: Path) -> None:
    """Its memory may be on its way here: half of it of now, half of then."""
    told, made = Told(), Eyes()
    rounds = Rounds(made, told, tmp_path)
    with qemu(tmp_path, 64 * MIB):
        assert [await rounds.once() for _ in range(3)] == [0, 0, 0]
    assert made._process is None and told.events == []


async def test_one_that_has_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where looking takes so long that rounds are far apart; who was seen waits for those."""
    busy = itertools.count(0, 10**9)
    monkeypatch.setattr(GuestMemory, "executed_ns", lambda _: next(busy))
    now, looks, kernel = 0.0, [], False

    async def look(*_: object) -> Seen:
        if not kernel:
            raise Unavailable("no Linux kernel")
        return object.__new__(Seen)

    async with eyes() as made:
        monkeypatch.setattr(made, "look", look)
        rounds = Rounds(made, Told(), tmp_path, clock=lambda: now)
        monkeypatch.setattr(rounds._watch, "seen", lambda *_: [])
        assert await rounds.once() == 0
        with qemu(tmp_path, 64 * MIB):
            for _ in range(60):  # it boots
                looks += [now] * await rounds.once(first_looks=True)
                now += 10.0
            kernel = True
            for _ in range(200):
                looks += [now] * await rounds.once(first_looks=True)
                now += 10.0
            assert looks == [10.0, 70.0, 190.0, 430.0, 910.0]
            assert await rounds.once() == 1, "in its turn"


async def test_one_at_which_looking_fails_is_spared_twice_as_long_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looked begins anew: else a guest at which it always fails would keep a processor busy."""
    busy = itertools.count(0, 10**9)
    monkeypatch.setattr(GuestMemory, "executed_ns", lambda _: next(busy))
    now, looks = 0.0, []
    async with eyes("-c", "import sys; sys.exit(0)") as made:
        rounds = Rounds(made, Told(), tmp_path, clock=lambda: now)
        with qemu(tmp_path, 64 * MIB):
            await rounds.once()
            for _ in range(200):
                looks += [now] * await rounds.once()
                now += 30.0
    assert looks[:5] == [0.0, 60.0, 180.0, 420.0, 900.0]
    assert looks[-1] - looks[-2] <= 3600.0
