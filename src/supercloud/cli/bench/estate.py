"""A whole control plane of the bench's own, with as many running instances as wanted on simulated machines.

Its programs run as `supercloud up` runs them: own processes, TLS with the operator's certificate, SQLite.
The instances got there as a user's do: asked for over the API, started by durable operations, under rights
that their blankets' agents (see `fleet`) go on renewing while things are measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from supercloud.cli.bench.children import child, free_port
from supercloud.cli.control import ControlPlane
from supercloud.cli.output import Bar
from supercloud.client import Client, Place
from supercloud.images.blanket import BuiltImages
from supercloud.model.errors import Failed
from supercloud.model.names import MIB

CLOUD = "bench"
BLANKETS = 10
#: What the control plane keeps of the first ones is not only for them.
_FIRST = 2
_AT_ONCE = 16
_VIRTUAL_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Estate:
    """What is up. `fresh_rss`: resident bytes of the control plane before it had anything to do."""

    folder: Path
    place: Place
    control: ControlPlane
    fresh_rss: int
    agent_bytes: float = 0.0  # what each further connected agent added to that

    def client(self) -> Client:
        return Client(self.place.access())

    @contextmanager
    def machines(self, provider: str, *options: str) -> Iterator[psutil.Process]:
        """A provider of simulated machines, and the program that plays them."""
        births, state = self.folder / f"{provider}-births", self.folder / f"{provider}-machines"
        births.mkdir()
        state.mkdir()
        request = {"name": provider, "kind": "simulated", "options": {"births": str(births)}}
        self.client().post("/providers", request)
        with child("supercloud.cli.bench.fleet", str(births), str(state), *options) as process:
            yield psutil.Process(process.pid)

    def add_blanket(self, name: str, provider: str) -> None:
        """Ask for it, and wait until it has joined."""
        client = self.client()
        request = {"name": name, "cloud": CLOUD, "provider": provider}
        client.wait(client.post("/blankets", request), lambda *_: None)

    def rss(self, program: str) -> int:
        """Resident bytes of `controlplane` or `keystore` now.

        Raises:
            Failed: it ended.
        """
        ports = self.control.ports()
        daemon = (
            self.control.keystore if program == "keystore" or ports is None else self.control.daemon(ports)
        )
        process = daemon.process()
        if process is None:
            raise Failed(f"the bench's {program} ended", hint=f"its log is {daemon.log}")
        return rss(process)


@contextmanager
def estate(instances: int, bar: Bar, *, blankets: int = BLANKETS) -> Iterator[Estate]:
    """Bring it up with so many instances in so many blankets, and leave nothing of it behind.

    Raises:
        NotFound: no blanket image was built on this machine.
        SupercloudError: it did not come up.
    """
    BuiltImages().current()  # the same refusal as a user's, before anything is started
    os.environ.pop("SUPERCLOUD_DATABASE", None)  # a bench never touches the user's own
    home = Path(tempfile.mkdtemp(prefix="sc-bench-"))
    place = Place(home / "state")
    control = ControlPlane(place)
    try:
        bar("control plane", None)
        control.up(api_port=free_port(), agents_port=free_port())
        made = Estate(home, place, control, 0)
        made = replace(made, fresh_rss=made.rss("controlplane"))
        with made.machines("sim"):
            _furnish(made, home / "image")
            made = replace(made, agent_bytes=_join(made, blankets, bar))
            _fill(made.client(), instances, blankets, bar)
            yield made
    finally:
        control.down()
        shutil.rmtree(home, ignore_errors=True)


def _furnish(made: Estate, image: Path) -> None:
    """A cloud with a network and an image."""
    client = made.client()
    client.post("/clouds", {"name": CLOUD})
    client.post("/networks", {"name": "lan", "cloud": CLOUD, "cidr": "10.64.0.0/16"})
    content = secrets.token_bytes(MIB)
    image.write_bytes(content)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    asyncio.run(_bind(made.place.keystore_socket, digest))
    client.post(
        "/images",
        {
            "name": "image",
            "digest": digest,
            "size_bytes": len(content),
            "virtual_bytes": _VIRTUAL_BYTES,
        },
    )
    client.upload(digest, image, 0, lambda _: None)


def _join(made: Estate, blankets: int, bar: Bar) -> float:
    """Add the blankets; by how many bytes each of them but the first made the control plane grow."""
    first = 0
    for number in range(blankets):
        bar(f"joining {blankets} blankets", number / blankets)
        made.add_blanket(f"b{number}", "sim")
        if number + 1 == _FIRST:
            first = made.rss("controlplane")
    more = blankets - _FIRST
    return max(0, made.rss("controlplane") - first) / more if more > 0 else 0.0


async def _bind(socket: Path, digest: str) -> None:
    """The owner's key store knows a key for every image that it is asked to seal for a blanket."""
    from supercloud.keystore.client import RemoteOwner

    owner = RemoteOwner(socket)
    try:
        key = await owner.new_image_key()
        await owner.bind_image_key(id=key.id, digest=digest)
    finally:
        await owner.close()


def _fill(client: Client, instances: int, blankets: int, bar: Bar) -> None:
    under_way: deque[Any] = deque()
    for number in range(instances):
        request = {
            "name": f"i{number}",
            "cloud": CLOUD,
            "image": "image",
            "on": f"b{number % blankets}",
            "networks": ["lan"],
        }
        under_way.append(client.post("/instances", request))
        if len(under_way) >= _AT_ONCE:
            client.wait(under_way.popleft(), lambda *_: None)
        bar(f"starting {instances} instances", number / instances)
    for operation in under_way:
        client.wait(operation, lambda *_: None)


def rss(process: psutil.Process) -> int:
    """Of the process and its children."""
    return int(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))))
