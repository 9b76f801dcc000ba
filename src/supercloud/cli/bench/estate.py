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
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from supercloud.cli.bench.children import child, free_port
from supercloud.cli.control import ControlPlane
from supercloud.cli.daemons import Daemon
from supercloud.cli.output import Bar
from supercloud.client import Client, Place
from supercloud.images.blanket import BuiltImages
from supercloud.model.errors import Failed
from supercloud.model.names import MIB

BLANKETS = 10
_IN_A_CLOUD = 10
CLOUD = "bench0"
#: What the control plane keeps since the first ones came is not only for them.
_FIRST = 2
_AT_ONCE = 16
#: A program that takes less than this of a processor has come to rest.
_RESTS_PERCENT, _REST_S = 5.0, 120.0
_BACK_S = 300.0
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
        return rss(self.process(program))

    def process(self, program: str) -> psutil.Process:
        """Of `controlplane` or `keystore`.

        Raises:
            Failed: it ended.
        """
        daemon = self.control.keystore if program == "keystore" else self._daemon
        process = daemon.process()
        if process is None:
            raise Failed(f"the bench's {program} ended", hint=f"its log is {daemon.log}")
        return process

    def restart(self) -> None:
        """The control plane alone, at the ports that it had."""
        self._daemon.stop()
        self.control.up(api_port=None, agents_port=None)

    @property
    def _daemon(self) -> Daemon:
        ports = self.control.ports()
        if ports is None:
            raise Failed("the bench's control plane never came up")
        return self.control.daemon(ports)


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
        with made.machines("first"), made.machines("sim") as agents:
            _furnish(made, home / "image", clouds=-(-blankets // _IN_A_CLOUD))
            _join(made, blankets, bar)
            bar("connecting agents", None)
            made = replace(made, agent_bytes=_connected_bytes(made, agents, blankets))
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


def _join(made: Estate, blankets: int, bar: Bar) -> None:
    """Add the blankets; the first ones, of a provider of their own, stay when the others are kept away."""
    requests = [
        {
            "name": f"b{number}",
            "cloud": _cloud_of(number),
            "provider": "first" if number < _FIRST else "sim",
            "memory_mib": _BLANKET_MIB,
        }
        for number in range(blankets)
    ]
    _each(made.client(), "/blankets", requests, bar, f"joining {blankets} blankets")


def _connected_bytes(made: Estate, agents: psutil.Process, blankets: int) -> float:
    """What each connected agent but the first ones keeps resident in a control plane that did nothing else:
    begun anew, with them and without.

    Raises:
        Failed: they did not come back.
    """
    more = blankets - _FIRST
    if more <= 0:
        return 0.0
    agents.suspend()
    try:
        made.restart()
        _until_connected(made, _FIRST)
        without = made.rss("controlplane")
    finally:
        agents.resume()
    _until_connected(made, blankets)
    return max(0, made.rss("controlplane") - without) / more


def _until_connected(made: Estate, many: int) -> None:
    """And until what follows from their coming is done."""
    client, process = made.client(), made.process("controlplane")
    late = time.monotonic() + _BACK_S
    while client.get("/status")["blankets_connected"] < many:
        if time.monotonic() > late:
            raise Failed(f"{many} agents were not connected within {_BACK_S:.0f} s")
        time.sleep(0.5)
    late = time.monotonic() + _REST_S
    while process.cpu_percent(2.0) > _RESTS_PERCENT and time.monotonic() < late:
        pass


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
