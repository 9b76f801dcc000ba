"""A whole control plane of the bench's own, with as many running instances as wanted on simulated machines.

Every ten blankets are a cloud: in a mesh each knows all others, so that a cloud of a thousand would cost
their square, and thousands of blankets are many owners'.

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
from collections.abc import Iterator, Sequence
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

BLANKETS = 10
_IN_A_CLOUD = 10
CLOUD = "bench0"
#: What the control plane keeps of the first ones is not only for them.
_FIRST = 2
_AT_ONCE = 16
_VIRTUAL_BYTES = 64 * MIB
_BLANKET_MIB = 64  # of a host that has 1 TiB


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
        """To the first cloud; once it has joined."""
        request = {"name": name, "cloud": CLOUD, "provider": provider}
        _each(self.client(), "/blankets", [request], lambda *_: None, "")

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
            _furnish(made, home / "image", clouds=-(-blankets // _IN_A_CLOUD))
            made = replace(made, agent_bytes=_join(made, blankets, bar))
            _fill(made.client(), instances, blankets, bar)
            yield made
    finally:
        control.down()
        shutil.rmtree(home, ignore_errors=True)


def _cloud_of(blanket: int) -> str:
    return f"bench{blanket // _IN_A_CLOUD}"


def _furnish(made: Estate, image: Path, clouds: int) -> None:
    """Clouds with a network each, and an image."""
    client = made.client()
    for number in range(clouds):
        cloud = _cloud_of(number * _IN_A_CLOUD)
        client.post("/clouds", {"name": cloud})
        client.post("/networks", {"name": "lan", "cloud": cloud, "cidr": "10.64.0.0/16"})
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
    client, doing = made.client(), f"joining {blankets} blankets"
    requests = [
        {"name": f"b{number}", "cloud": _cloud_of(number), "provider": "sim", "memory_mib": _BLANKET_MIB}
        for number in range(blankets)
    ]
    _each(client, "/blankets", requests[:_FIRST], bar, doing)
    first = made.rss("controlplane")
    _each(client, "/blankets", requests[_FIRST:], bar, doing)
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
    requests = [
        {
            "name": f"i{number}",
            "cloud": _cloud_of(number % blankets),
            "image": "image",
            "on": f"b{number % blankets}",
            "networks": ["lan"],
        }
        for number in range(instances)
    ]
    _each(client, "/instances", requests, bar, f"starting {instances} instances")


def _each(client: Client, path: str, requests: Sequence[dict[str, Any]], bar: Bar, doing: str) -> None:
    """Ask for each of them, and wait until all are there; some are under way at once."""
    under_way: deque[Any] = deque()
    for number, request in enumerate(requests):
        under_way.append(client.post(path, request))
        if len(under_way) >= _AT_ONCE:
            client.wait(under_way.popleft(), lambda *_: None)
        bar(doing, number / len(requests))
    for operation in under_way:
        client.wait(operation, lambda *_: None)


def rss(process: psutil.Process) -> int:
    """Of the process and its children."""
    return int(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))))
