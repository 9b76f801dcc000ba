"""What every actuator does alike: each check over one that is given, and what of its effect can be seen.

As a program, in a network namespace of its own: the checks over nftables, and what packets say.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supercloud.blanket import nft
from supercloud.blanket.overlay import filter as packet_filter
from supercloud.blanket.overlay.plan import Filter
from supercloud.blanket.overlay.reactions import PortReactions
from supercloud.model.errors import NotFound, SupercloudError
from supercloud.model.findings import Object, ObjectKind
from supercloud.model.reactions import Command, Deed
from supercloud.ports.actuator import Actuator

HERE, NOWHERE = str(uuid.UUID(int=100)), str(uuid.UUID(int=999))
_CALLS = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
Check = Callable[[Actuator, Deed], Awaitable[None]]


def command(deed: Deed, number: int = 1, *, about: str = HERE, seconds: float = 60.0, **more: Any) -> Command:
    if deed is Deed.DENY:
        more.setdefault("net", "10.20.0.9")
    if deed is Deed.LIMIT:
        more.setdefault("kbytes", 64)
    if deed is Deed.RENEW:
        more.setdefault("component", "observer")
    return Command(
        id=str(uuid.UUID(int=number)),
        deed=deed,
        about=Object(kind=ObjectKind.INSTANCE, id=about),
        until=time.time() + seconds,
        **more,
    )


async def done_it_is_there_and_undone_it_is_not(actuator: Actuator, deed: Deed) -> None:
    one = command(deed)
    assert not await actuator.look(one)
    await actuator.do(one)
    assert await actuator.look(one)
    await actuator.undo(one)
    assert not await actuator.look(one)


async def repeats_change_nothing(actuator: Actuator, deed: Deed) -> None:
    one = command(deed)
    await actuator.undo(one)
    for _ in range(3):
        await actuator.do(one)
    await actuator.undo(one)
    assert not await actuator.look(one), "one undo undoes it, however often it was done"
    await actuator.undo(one)


async def one_commands_effect_is_not_anothers(actuator: Actuator, deed: Deed) -> None:
    one, other = command(deed, 1), command(deed, 2)
    await actuator.do(one)
    try:
        await actuator.do(other)
    except SupercloudError:
        pass
    else:
        raise AssertionError("two commands hold one thing")
    assert not await actuator.look(other)
    await actuator.undo(other)
    assert await actuator.look(one), "undoing another's leaves it"
    await actuator.undo(one)
    await actuator.do(other)
    assert await actuator.look(other)
    await actuator.undo(other)


async def what_is_not_here_is_said_to_be_nowhere(actuator: Actuator, deed: Deed) -> None:
    if deed is Deed.DENY:
        return  # an address is nobody's
    one = command(deed, about=NOWHERE)
    try:
        await actuator.do(one)
    except NotFound:
        pass
    else:
        raise AssertionError("it did something to nothing")
    assert not await actuator.look(one)
    await actuator.undo(command(deed, 77))


CHECKS: tuple[Check, ...] = (
    done_it_is_there_and_undone_it_is_not,
    repeats_change_nothing,
    one_commands_effect_is_not_anothers,
    what_is_not_here_is_said_to_be_nowhere,
)


# ---------------------------------------------------------------- in a namespace


#: An instance whose port is still to come.
COMING = str(uuid.UUID(int=101))


def ports(instance: str) -> list[str]:
    return {HERE: ["tone"], COMING: ["tthree"]}.get(instance, [])


async def filtered() -> PortReactions:
    """The blanket's whole filter, and two instances that are let speak: `tone` and `ttwo`."""
    own = tuple((f"t{name}", mac(index), address(index)) for index, name in enumerate(("one", "two"), 1))
    await nft.run(packet_filter.ruleset(Filter(own=frozenset(own)), underlay="eth0", listen_port=51820))
    await nft.run(packet_filter.permit(["tone", "ttwo"], 600))
    return PortReactions(ports)


def mac(index: int) -> str:
    return f"02:00:00:00:00:0{index}"


def address(index: int) -> str:
    return f"10.20.0.{index}"


def sh(text: str) -> None:
    subprocess.run(text.split(), check=True, stdout=subprocess.DEVNULL)


def wire() -> list[subprocess.Popen[bytes]]:
    """Two guests, each a namespace of its own behind a port of a bridge."""
    if _CALLS.exists():  # a kernel that hands bridged packets to `inet` too; a blanket's does not
        _CALLS.write_text("0")
    sh("ip link add br-x type bridge")
    sh("ip link set br-x up")
    guests = []
    for index, name in enumerate(("one", "two"), 1):
        guest = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo in; exec sleep 600"], stdout=subprocess.PIPE
        )
        guests.append(guest)
        sh(f"ip link add t{name} type veth peer name g{name}")
        assert guest.stdout is not None
        guest.stdout.readline()  # it is in its namespace
        sh(f"ip link set g{name} netns {guest.pid} address {mac(index)}")
        sh(f"ip link set t{name} master br-x up")
        within(guest, f"ip addr add {address(index)}/24 dev g{name}")
        within(guest, f"ip link set g{name} up")
    return guests


def within(guest: subprocess.Popen[bytes], text: str) -> None:
    sh(f"nsenter -t {guest.pid} -n {text}")


#: Echoes UDP in one guest, and in the other says how many of so many bytes come back.
_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 7)); print("ready", flush=True)
while True:
    data, who = s.recvfrom(2000); s.sendto(data, who)
"""
_ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.4); many = int(sys.argv[2]); back = 0
for n in range(many):
    s.sendto(bytes(int(sys.argv[3])), (sys.argv[1], 7))
    try: back += bool(s.recv(2000))
    except TimeoutError: pass
print(back)
"""


@contextmanager
def echoing(guest: subprocess.Popen[bytes]) -> Iterator[None]:
    argv = ["nsenter", "-t", str(guest.pid), "-n", sys.executable, "-c", _ECHO]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as echo:
        assert echo.stdout is not None
        echo.stdout.readline()
        try:
            yield
        finally:
            echo.kill()


def back(guest: subprocess.Popen[bytes], *, many: int = 3, bytes_: int = 20) -> int:
    argv = [
        "nsenter",
        "-t",
        str(guest.pid),
        "-n",
        sys.executable,
        "-c",
        _ASK,
        address(2),
        str(many),
        str(bytes_),
    ]
    return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


async def packets(actuator: PortReactions) -> None:
    """What comes through, with each reaction and without."""
    guests = wire()
    try:
        with echoing(guests[1]):
            assert back(guests[0]) == 3, "nothing is in the way yet"
            contained = command(Deed.CONTAIN)
            await actuator.do(contained)
            assert back(guests[0]) == 0, "the contained one hears nothing"
            await actuator.undo(contained)
            assert back(guests[0]) == 3
            for denied in (address(1), address(2)):
                await actuator.do(command(Deed.DENY, 5, net=denied))
                assert back(guests[0]) == 0, "neither as a source nor as a destination"
                await actuator.undo(command(Deed.DENY, 5, net=denied))
            assert back(guests[0]) == 3
            await actuator.do(command(Deed.LIMIT, 6, kbytes=1))
            # A limit has a burst of five bytes times the rate: so much comes through at once, then little.
            assert back(guests[0], many=30, bytes_=1400) < 15
            await actuator.undo(command(Deed.LIMIT, 6, kbytes=1))
            assert back(guests[0], many=30, bytes_=1400) == 30
            brief = command(Deed.CONTAIN, 8, seconds=2.5)
            await actuator.do(brief)
            assert back(guests[0], many=1) == 0
            assert brief.until is not None
            await asyncio.sleep(brief.until - time.time())  # the kernel's clock is what is awaited
            assert not await actuator.look(brief), "it ends by itself, in time"
            assert back(guests[0]) == 3
            await an_apply_leaves_it(actuator)
            assert back(guests[0]) == 0
        await it_is_there_before_its_port(actuator, guests)
    finally:
        for guest in guests:
            guest.kill()
            guest.wait()


async def an_apply_leaves_it(actuator: PortReactions) -> None:
    one = command(Deed.CONTAIN, 9)
    await actuator.do(one)
    await filtered()
    assert await actuator.look(one), "an agent that comes back ends no reaction"


async def it_is_there_before_its_port(actuator: PortReactions, guests: list[subprocess.Popen[bytes]]) -> None:
    """What moves here is contained before there is anything to contain: its port comes up closed, and not one
    frame of it passes, permitted or not."""
    one = command(Deed.CONTAIN, 10, about=COMING)
    await actuator.undo(command(Deed.CONTAIN, 9))
    await actuator.do(one)
    assert await actuator.look(one)
    await nft.run(packet_filter.permit(["tthree"], 600))
    guest = guests[0]
    sh("ip link del tone")
    sh("ip link add tthree type veth peer name gone")
    sh(f"ip link set gone netns {guest.pid} address {mac(1)}")
    sh("ip link set tthree master br-x up")
    within(guest, f"ip addr add {address(1)}/24 dev gone")
    within(guest, "ip link set gone up")
    own = frozenset({("tthree", mac(1), address(1)), ("ttwo", mac(2), address(2))})
    await nft.run(packet_filter.ruleset(Filter(own=own), underlay="eth0", listen_port=51820))
    with echoing(guests[1]):
        assert back(guest) == 0, "it is closed from its first frame on"
        await actuator.undo(one)
        # Who it looked for in vain it looks for again after a while.
        assert any(back(guest) == 3 for _ in range(10)), "nothing else was in its way"


async def _whole() -> None:
    sh("ip link set lo up")
    actuator = await filtered()
    for check in CHECKS:
        for deed in sorted(actuator.takes):
            await check(actuator, deed)
    await packets(actuator)


if __name__ == "__main__":
    asyncio.run(_whole())
    sys.stdout.write("ok\n")
