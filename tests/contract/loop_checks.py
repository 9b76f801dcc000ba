"""In a network namespace of its own: guests on a bridge, the port detector as a process, the loop, nftables.

A guest scans another with plain connections and is contained; the detector is killed and comes back; a guest
that speaks under another's address is found, and the one whose address it was is left alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actuator_checks import address, filtered, mac, sh, wire
from pydantic import TypeAdapter

from supercloud.blanket.overlay.plan import NOTHING, InstancePort, Knowledge, plugged
from supercloud.blanket.overlay.reactions import PortReactions
from supercloud.cli.policy import read
from supercloud.model.findings import Layer, Object, ObjectKind
from supercloud.model.incidents import IncidentState
from supercloud.security.door import Door
from supercloud.security.events import Stand
from supercloud.security.journal import Journal
from supercloud.security.loop import Loop
from supercloud.security.rules import Rules
from supercloud.security.sigma import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "security"
INSTANCES = {f"t{name}": str(uuid.UUID(int=100 + index)) for index, name in enumerate(("one", "two"), 1)}
NETWORK = str(uuid.UUID(int=7))
_SCAN = """
import socket, sys
for port in range(1, 60):
    s = socket.socket(); s.settimeout(0.05)
    try: s.connect((sys.argv[1], port))
    except OSError: pass
    s.close()
"""
_SPOOF = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((sys.argv[1], 0))
mac = bytes.fromhex(sys.argv[2].replace(":", "")); ip = socket.inet_aton(sys.argv[3])
s.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + bytes.fromhex("0001080006040001") + mac + ip + bytes(10))
"""


async def until(what: str, holds: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110 - of what is looked at nobody tells
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within 30 s: {what}") from None


async def within(guest: subprocess.Popen[bytes], code: str, *arguments: str) -> None:
    argv = ["nsenter", "-t", str(guest.pid), "-n", sys.executable, "-c", code, *arguments]
    process = await asyncio.create_subprocess_exec(*argv)
    assert await process.wait() == 0


def known() -> bytes:
    """As the overlay's driver writes it."""
    told = NOTHING
    for index, (device, instance) in enumerate(INSTANCES.items(), 1):
        port = InstancePort(
            instance=instance, device=device, network=NETWORK, mac=mac(index), ip=address(index)
        )
        told = plugged(told, port)
    return TypeAdapter(Knowledge).dump_json(told)


def stands(name: str, _: Any) -> Stand | None:
    def objects(device: str | None) -> Object | None:
        found = INSTANCES.get(device or "")
        return None if found is None else Object(kind=ObjectKind.INSTANCE, id=found)

    return Stand(
        detector=name,
        layer=Layer.L2,
        domain=str(uuid.UUID(int=1)),
        cloud=str(uuid.UUID(int=2)),
        objects=objects,
        proves=True,
    )


class Detector:
    def __init__(self, folder: Path) -> None:
        self._argv = [sys.executable, "-m", "supercloud.agent.detectors", "port"]
        self._argv += [str(folder / "loop.sock"), str(folder / "known.json")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._argv)

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


async def _whole(folder: Path) -> None:
    sh("ip link set lo up")
    await filtered()
    guests = wire()
    (folder / "known.json").write_bytes(known())
    loop = Loop(
        journal=Journal(folder / "loop.sqlite"),
        policies=read((EXAMPLE / "policy.yaml").read_bytes(), "policy"),
        rules=Rules(load([("r", (EXAMPLE / "rules" / "port-scan.yml").read_bytes())]).rules),
        actuator=PortReactions(lambda one: [key for key, of in INSTANCES.items() if of == one]),
        now=time.time,
    )
    running = asyncio.create_task(loop.run())
    met: list[str] = []

    def noted(name: str, connection: Any) -> Stand | None:
        met.append(name)
        return stands(name, connection)

    server = await Door(loop, noted).listen_unix(folder / "loop.sock")
    detector = Detector(folder)
    detector.start()
    try:
        await until("the detector comes in", lambda: len(met) == 1)
        await _attacks(loop, guests, detector, met)
    finally:
        detector.kill()
        running.cancel()
        server.close()
        for guest in guests:
            guest.kill()
            guest.wait()


async def _attacks(
    loop: Loop, guests: list[subprocess.Popen[bytes]], detector: Detector, met: list[str]
) -> None:
    one, two = INSTANCES["tone"], INSTANCES["ttwo"]
    detector.kill()
    detector.start()
    await until("another detector comes in", lambda: len(met) == 2)
    await within(guests[1], _SPOOF, "gtwo", mac(1), address(1))
    await until("the forger is found", lambda: bool(_rules(loop, two)))
    assert _rules(loop, two) == {"spoofed-address"}
    assert not _rules(loop, one), "whose address it was is nothing said against"
    assert not loop.engine.book.about(one)
    begun = time.monotonic()
    await within(guests[0], _SCAN, address(2))
    await until("the scanner is contained", lambda: bool(loop.engine.book.about(one)))
    assert "port-scan" in _rules(loop, one)
    deeds = lambda: {item.command.deed.action for item in loop.engine.book.about(one)}  # noqa: E731
    await until("both reactions are done", lambda: deeds() == {"contain", "set"})
    assert not loop.engine.book.about(two)
    await until(
        "it is quiet, and that is proof",
        lambda: any(
            of.state is IncidentState.CONTAINED and any(about.id == one for about in of.objects)
            for of in loop.incidents()
        ),
    )
    sys.stdout.write(f"contained and verified after {time.monotonic() - begun:.1f} s\n")


def _rules(loop: Loop, about: str) -> set[str]:
    return {seen.rule for incident in loop.incidents() for seen in incident.seen if seen.object.id == about}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="loop-") as scratch:
        asyncio.run(_whole(Path(scratch)))
    sys.stdout.write("ok\n")
