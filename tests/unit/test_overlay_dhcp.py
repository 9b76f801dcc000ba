"""The processes that answer DHCP: when one reads anew, and when it has to begin anew.

With a program in dnsmasq's place that says what is done to it; leases themselves are looked at on a real one
(tests/system/overlay_checks).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from supercloud.blanket.overlay.dhcp import Children, Settings
from supercloud.blanket.overlay.plan import NOTHING, plan, told_mesh
from supercloud.ports.overlay import Location, Mesh, Network

pytestmark = pytest.mark.unit
NETWORK = Network(
    id="11111111-0000-4000-8000-000000000000", name="red", vni=7, cidr="10.7.0.0/24", gateway="10.7.0.1"
)
#: A shell could not: whoever runs these tests may have its children ignore SIGHUP.
_DNSMASQ = f"""#!{sys.executable}
import os, signal, sys
if sys.argv[1] == "--test":
    sys.exit()
def say(what):
    with open(os.environ["SAID"], "a") as said:
        said.write(what)
signal.signal(signal.SIGHUP, lambda *_: say("read "))
say("began ")
while True:
    signal.pause()
"""


class Said:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def comes_to(self, *wanted: str) -> None:
        async with asyncio.timeout(20):
            while self._now() != list(wanted):
                assert len(self._now()) <= len(wanted), self._now()
                await asyncio.sleep(0.01)  # a file has no event

    def _now(self) -> list[str]:
        return self._path.read_text().split() if self._path.exists() else []


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    program = tmp_path / "bin" / "dnsmasq"
    program.parent.mkdir()
    program.write_text(_DNSMASQ)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    return Said(tmp_path / "said")


@pytest_asyncio.fixture
async def children(tmp_path: Path) -> AsyncIterator[Children]:
    made = Children(Settings(directory=tmp_path / "dhcp"))
    yield made
    await made.close()


def segment(**macs: str) -> Any:
    """Of a network with these: the last digit of an address by name, and the MAC that has it."""
    located = tuple(
        Location(
            instance=f"0000{mac[-2:]}00-0000-4000-8000-000000000000",
            name=name,
            network=NETWORK.id,
            mac=mac,
            ip=f"10.7.0.{10 + ord(name) - ord('a')}",
            blanket=None,
            epoch=0,
        )
        for name, mac in macs.items()
    )
    mesh = Mesh(address="100.64.0.1", generation=1, networks=(NETWORK,), locations=located)
    return plan(told_mesh(NOTHING, mesh), blanket="self").segments[NETWORK.id]


FIRST, SECOND, THIRD = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"


async def test_who_comes_and_goes_is_read_anew(children: Children, said: Said) -> None:
    await children.converge([segment(a=FIRST)])
    await said.comes_to("began")
    children.tell(segment(a=FIRST, b=SECOND))
    await said.comes_to("began", "read")
    children.tell(segment(a=FIRST, b=SECOND))
    children.tell(segment(b=SECOND))
    await said.comes_to("began", "read", "read")


async def test_an_address_that_another_had_is_given_by_one_that_never_gave_it(
    children: Children, said: Said
) -> None:
    """dnsmasq keeps a lease of an instance that is gone, and gave its address to nobody for twelve hours."""
    await children.converge([segment(a=FIRST)])
    await said.comes_to("began")
    children.tell(segment(b=SECOND))
    await said.comes_to("began", "read")
    children.tell(segment(a=THIRD, b=SECOND))
    await said.comes_to("began", "read", "began")
    children.tell(segment(a=THIRD))
    await said.comes_to("began", "read", "began", "read")
