"""Two real blankets in two domains and a guest between them, under a control plane of the bench's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from supercloud.cli.bench.children import free_port
from supercloud.cli.bench.plain import resident_kib
from supercloud.cli.control import ControlPlane
from supercloud.cli.demo.load import console_log
from supercloud.cli.demo.witness import Witness
from supercloud.cli.output import Bar, Format
from supercloud.cli.shell import Shell
from supercloud.client import Client, Place
from supercloud.images.blanket import BuiltImages
from supercloud.model.errors import Failed
from supercloud.model.names import GIB, Id, Ipv4
from supercloud.observer.timeline import Fact
from supercloud.platforms import open_platform

_CLOUD, _GUEST, _IMAGE, _NETWORK = "bench", "guest", "bench-debian", "lan"
_BLANKETS = {"n1": "north", "s1": "south"}
_BOOT_S = 900.0  # under emulation, beside others


class Pair:
    """What the bench needs of it. Blankets are named; `ids` tells their ids."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = Client(place.access())
        self._witness: Witness | None = None
        self.instance: Id = ""

    def ids(self) -> dict[str, Id]:
        return {name: one["id"] for name, one in self._blankets().items()}

    def addresses(self) -> dict[str, Ipv4]:
        """In the mesh."""
        return {name: one["mesh_address"] for name, one in self._blankets().items()}

    def where(self) -> str:
        return str(self._client.get(f"/instances/{_GUEST}", cloud=_CLOUD)["blanket"])

    def other(self, blanket: str) -> str:
        return next(name for name in _BLANKETS if name != blanket)

    def disk_bytes(self) -> int:
        (volume,) = self._client.get("/volumes", cloud=_CLOUD)
        return int(volume["size_bytes"])

    def migrate(self, to: str) -> dict[str, Any]:
        """The operation's result, once it is over.

        Raises:
            SupercloudError: what it failed with.
            Failed: it came to an end that measures nothing.
        """
        operation = self._client.post(f"/instances/{_GUEST}/migrate", {"to": to}, cloud=_CLOUD)
        result: dict[str, Any] = self._client.wait(operation, lambda *_: None)["result"]
        if result["memory_lost"]:
            raise Failed("the guest's memory was lost on the way")
        return result

    def facts(self) -> list[Fact]:
        """What the QEMUs said so far."""
        return self._witness.facts() if self._witness else []

    @contextmanager
    def shells(self) -> Iterator[dict[str, Shell]]:
        """Root in each blanket."""
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(Shell.on(self._client, name, cloud=_CLOUD)) for name in _BLANKETS
            }

    def agents_mb(self, shells: dict[str, Shell]) -> dict[str, float]:
        """Resident memory of each agent, where it can be told."""
        found = {name: resident_kib(shell, "agent") for name, shell in shells.items()}
        return {name: round(kib / 1024, 1) for name, kib in found.items() if kib is not None}

    # ------------------------------------------------------------ bringing it up

    def make(self, bar: Bar) -> None:
        """Domains, cloud, image, blankets, and the guest, booted."""
        bar("importing the guest's image", None)
        self._furnish()
        bar("booting two blankets", None)
        made = [self._add_blanket(name, provider) for name, provider in _BLANKETS.items()]
        for operation in made:
            self._client.wait(operation, lambda *_: None)
        bar("booting the guest", None)
        request = {
            "name": _GUEST,
            "cloud": _CLOUD,
            "image": _IMAGE,
            "on": next(iter(_BLANKETS)),
            "memory_mib": 256,
            "networks": [_NETWORK],
        }
        operation = self._client.post("/instances", request)
        self.instance = operation["object"]
        self._client.wait(operation, lambda *_: None)
        self._await_login()

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Listen to every QEMU of both blankets meanwhile."""
        platforms = self._place.home / "controlplane" / "platforms"
        ports = {
            blanket["id"]: next(platforms.glob(f"*/machines/{blanket['id']}")) / "observer.sock"
            for blanket in self._blankets().values()
        }
        with Witness(ports) as self._witness:
            yield
        self._witness = None

    def _furnish(self) -> None:
        from supercloud.cli.commands.image import import_image
        from supercloud.images.guest import build_guest

        for provider in _BLANKETS.values():
            self._client.post("/providers", {"name": provider, "kind": "qemu"})
        self._client.post("/clouds", {"name": _CLOUD})
        self._client.post("/networks", {"name": _NETWORK, "cloud": _CLOUD, "cidr": "10.77.0.0/24"})
        with redirect_stdout(sys.stderr):
            import_image(build_guest() / "guest.qcow2", name=_IMAGE, output=Format.JSON)

    def _add_blanket(self, name: str, provider: str) -> Any:
        request = {
            "name": name,
            "cloud": _CLOUD,
            "provider": provider,
            "vcpus": 2,
            "memory_mib": 2048,
            "disk_bytes": 20 * GIB,
            "debug_shell": True,
        }
        return self._client.post("/blankets", request)

    def _await_login(self) -> None:
        """A guest has booted when its console asks who is there; the log is all that tells."""
        deadline = time.monotonic() + _BOOT_S
        while "login:" not in console_log(self._client, self.instance):
            if time.monotonic() > deadline:
                raise Failed(f"the guest did not boot in {_BOOT_S:.0f} s")
            time.sleep(1)

    def _blankets(self) -> dict[str, Any]:
        return {one["name"]: one for one in self._client.get("/blankets", cloud=_CLOUD)}


async def _end_machines(home: Path) -> None:
    """Blankets outlive a control plane, so its end is not theirs."""
    for folder in (home / "controlplane" / "platforms").glob("*/machines"):
        platform = open_platform("qemu", folder.parent, BuiltImages())
        for machine in await platform.list():
            await platform.destroy(machine.id)


@contextmanager
def pair(bar: Bar) -> Iterator[Pair]:
    """Bring it up, and leave nothing of it behind.

    Raises:
        SupercloudError: it did not come up.
    """
    home = Path(tempfile.mkdtemp(prefix="sc-bench-"))
    before = {name: os.environ.pop(name, None) for name in ("SUPERCLOUD_HOME", "SUPERCLOUD_DATABASE")}
    os.environ["SUPERCLOUD_HOME"] = str(home)  # importing an image asks there for its key
    control = ControlPlane(Place(home))
    try:
        bar("control plane", None)
        control.up(api_port=free_port(), agents_port=free_port())
        made = Pair(Place(home))
        made.make(bar)
        with made.observed():
            yield made
    finally:
        bar("cleaning up", None)
        control.down()
        asyncio.run(_end_machines(home))
        del os.environ["SUPERCLOUD_HOME"]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        shutil.rmtree(home, ignore_errors=True)
