"""A worm, in network namespaces of its own: run by test_worm.py as root of one; says what happened as JSON.

Three hosts on a bridge run the hole of `demo attack`. At their ports is the blanket's own sniffer, detector
and rule; what cuts a port off here is a link that goes down, after as long as a blanket takes to react.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from supercloud.blanket.sniffer import Sniffer
from supercloud.cli.demo import attackers
from supercloud.model.findings import Layer, Object, ObjectKind
from supercloud.security import usual
from supercloud.security.detectors.ports import Own, PortWatch
from supercloud.security.events import Stand, take
from supercloud.security.rules import Rules

TOOLS = Path(attackers.__file__).parent
REACTS_S, HELD_S, CROSSES_S = 2.0, 25.0, 60.0
HOSTS = {"abroad": "10.77.0.4", "first": "10.77.0.5", "next": "10.77.0.6"}
#: Lets the worm in, as whoever comes from outside does.
LET_IN = """
import socket, sys
body = open(sys.argv[1], "rb").read()
line = socket.create_connection(("127.0.0.1", 8099))
line.sendall(b"POST /update HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
assert line.recv(99).startswith(b"HTTP/1.0 200")
"""


def do(*argv: str) -> None:
    subprocess.run(argv, check=True)


class Host:
    """In a namespace of its own, with a file for its console, of which the last line counts."""

    def __init__(self, folder: Path, name: str, number: int) -> None:
        self.name, self.device = name, f"v{name}"
        self._console = folder / name
        self._console.touch()
        begins = f"mount --bind {self._console} /dev/ttyS0; read go; exec python3 {TOOLS / 'hole.py'}"
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", f"echo here; {begins}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdout.readline()
        self.inside = ("nsenter", "-t", str(self.process.pid), "--net")
        self.own = Own(device=self.device, mac=f"52:00:00:00:00:0{number}", ip=HOSTS[name])
        end = ("peer", "name", "eth0", "netns", str(self.process.pid))
        do("ip", "link", "add", self.device, "type", "veth", *end)
        do("ip", "link", "set", self.device, "master", "hub", "up")
        do(*self.inside, "ip", "link", "set", "lo", "up")
        do(*self.inside, "ip", "link", "set", "eth0", "address", self.own.mac, "up")
        do(*self.inside, "ip", "addr", "add", f"{self.own.ip}/24", "dev", "eth0")
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def says(self) -> str:
        return self._console.read_text()


class Loop:
    """Finds, and cuts off until it rests."""

    def __init__(self, hosts: dict[str, Host]) -> None:
        self._watch = PortWatch("boot")
        self._watch.plugged(one.own for one in hosts.values())
        self._rules = Rules(usual.RULES)
        ids = {one.device: str(uuid.uuid4()) for one in hosts.values()}
        self._stand = Stand(
            detector="port",
            layer=Layer.L2,
            domain=str(uuid.uuid4()),
            cloud=None,
            objects=lambda name: Object(kind=ObjectKind.INSTANCE, id=ids[name or ""]),
            proves=True,
        )
        self.found: list[str] = []
        self.cut: list[str] = []
        self.rests = False

    def heard(self, device: str, data: bytes) -> None:
        now = time.time()
        for raw in self._watch.sent(device, data, now):
            for event in take(raw, self._stand, now=now).events:
                for match in self._rules.see(event):
                    self.found.append(match.finding(now).rule or "")
                    asyncio.get_running_loop().call_later(REACTS_S, self._react, device)

    def _react(self, device: str) -> None:
        if not self.rests and device not in self.cut:
            self.cut.append(device)
            do("ip", "link", "set", device, "down")

    def rest(self) -> None:
        self.rests = True
        for device in self.cut:
            do("ip", "link", "set", device, "up")


async def until(hosts: list[Host], text: str, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not all(text in one.says() for one in hosts):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.2)  # of a file that changes in another namespace nobody tells
    return True


async def work(folder: Path) -> dict[str, Any]:
    do("ip", "link", "add", "hub", "type", "bridge")
    do("ip", "link", "set", "hub", "up")
    hosts = {name: Host(folder, name, number) for number, name in enumerate(HOSTS, 1)}
    loop, sniffer = Loop(hosts), Sniffer()
    sniffer.listen(loop.heard)
    assert await until(list(hosts.values()), "demo-hole open", 60)
    do(*hosts["first"].inside, sys.executable, "-c", LET_IN, str(TOOLS / "worm.py"))
    await asyncio.sleep(HELD_S)  # more than a whole round, in which it would have come to everybody
    held = {name: one.says() for name, one in hosts.items()}
    cut, found = list(loop.cut), sorted(set(loop.found))
    loop.rest()
    crossed = await until([hosts["abroad"]], "demo-worm", CROSSES_S)
    sniffer.close()
    return {"held": held, "cut": sorted(cut), "found": found, "crossed": crossed}


print(json.dumps(asyncio.run(work(Path(sys.argv[1])))))
