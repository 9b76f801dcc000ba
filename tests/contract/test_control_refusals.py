"""What the control plane refuses, in one line, and without a trace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from control_rig import (
    DIGEST,
    Bench,
    unopenable,
)

from supercloud.model.errors import (
    Conflict,
    InvalidInput,
    NotFound,
)
from supercloud.model.names import MIB, new_id
from supercloud.ports.agent import StreamKind
from supercloud.services.facade import ControlPlane
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    Publish,
    RegisterImage,
    RunInstance,
)

pytestmark = pytest.mark.contract


async def _twice(control: ControlPlane) -> object:
    lan = await control.network("lan")
    request = RunInstance(name="x", cloud="c", image="debian", networks=("lan", lan.id))
    return await control.run_instance(request)


UNKNOWN: dict[str, Callable[[ControlPlane], Awaitable[object]]] = {
    "cloud": lambda c: c.cloud("none"),
    "provider": lambda c: c.remove_provider("none"),
    "blanket": lambda c: c.remove_blanket("none"),
    "blanket's cloud": lambda c: c.add_blanket(AddBlanket(name="x", cloud="none", provider="p")),
    "blanket's provider": lambda c: c.add_blanket(AddBlanket(name="x", cloud="c", provider="none")),
    "image": lambda c: c.remove_image("none"),
    "image's digest": lambda c: c.image("sha256:" + "f" * 64),
    "network": lambda c: c.remove_network("none"),
    "volume": lambda c: c.remove_volume("none"),
    "volume's image": lambda c: c.create_volume(
        CreateVolume(name="x", cloud="c", size_bytes=8 * MIB, image="none")
    ),
    "instance": lambda c: c.stop_instance("none"),
    "instance's image": lambda c: c.run_instance(RunInstance(name="x", cloud="c", image="none")),
    "instance's network": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", networks=("none",))
    ),
    "target": lambda c: c.migrate_instance("web", to="none"),
    "operation": lambda c: c.cancel(new_id()),
    "operation awaited": lambda c: c.operation(new_id(), wait_s=1),
    "path": lambda c: c.cloud("../../etc/passwd"),
    "text of SQL": lambda c: c.instance("' OR 1=1 --"),
}
IN_USE: dict[str, Callable[[ControlPlane], Awaitable[object]]] = {
    "provider": lambda c: c.remove_provider("p"),
    "cloud": lambda c: c.remove_cloud("c"),
    "blanket": lambda c: c.remove_blanket("north"),
    "image": lambda c: c.remove_image("debian"),
    "network": lambda c: c.remove_network("lan"),
    "boot volume": lambda c: c.remove_volume("web-root"),
    "boot volume detached": lambda c: c.detach_volume("web-root"),
    "running instance": lambda c: c.remove_instance("web"),
    "volume not attached": lambda c: c.detach_volume("data"),
    "same provider": lambda c: c.add_provider(AddProvider(name="p", kind="simulated")),
    "same cloud": lambda c: c.create_cloud(CreateCloud(name="c")),
    "same blanket": lambda c: c.add_blanket(AddBlanket(name="north", cloud="c", provider="p")),
    "same network": lambda c: c.create_network(CreateNetwork(name="lan", cloud="c", cidr="10.8.0.0/24")),
    "same range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.9.0.128/25")),
    "same volume": lambda c: c.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB)),
    "same instance": lambda c: c.run_instance(RunInstance(name="web", cloud="c", image="debian")),
    "same image's name": lambda c: c.register_image(
        RegisterImage(name="debian", digest="sha256:" + "1" * 64, size_bytes=1, virtual_bytes=1)
    ),
    "same image": lambda c: c.register_image(
        RegisterImage(name="x", digest=DIGEST, size_bytes=1, virtual_bytes=1)
    ),
}
INVALID: dict[str, Callable[[ControlPlane], Awaitable[object]]] = {
    "public range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="8.8.8.0/24")),
    "huge range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.0.0.0/8")),
    "odd range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.8.0.1/24")),
    "no range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="999.0.0.0/24")),
    "reserved range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.0.0.0/16")),
    "no size": lambda c: c.create_volume(CreateVolume(name="x", cloud="c", size_bytes=0)),
    "odd size": lambda c: c.create_volume(CreateVolume(name="x", cloud="c", size_bytes=MIB + 1)),
    "smaller than its image": lambda c: c.create_volume(
        CreateVolume(name="x", cloud="c", size_bytes=8 * MIB, image="debian")
    ),
    "shrinking": lambda c: c.resize_volume("web-root", size_bytes=8 * MIB),
    "growing oddly": lambda c: c.resize_volume("web-root", size_bytes=64 * MIB + 1),
    "small disk": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", disk_bytes=8 * MIB)
    ),
    "more networks than ports": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", networks=tuple(f"n{one}" for one in range(5)))
    ),
    "network twice": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", networks=("lan", "lan"))
    ),
    "network twice by two names": _twice,
    "published without a network": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", publish=(Publish(port=80),))
    ),
    "much user data": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", user_data=unopenable(b"x" * 70_000))
    ),
    "user data of another digest": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", user_data=replace(unopenable(b""), digest=DIGEST))
    ),
    "short right": lambda c: c.create_cloud(CreateCloud(name="x", right_length_s=1)),
    "a margin that does not wait for the watchdog": lambda c: c.create_cloud(
        CreateCloud(name="x", right_margin_s=14.9)
    ),
    "an endless margin": lambda c: c.create_cloud(CreateCloud(name="x", right_margin_s=601)),
    "days of grace": lambda c: c.create_cloud(CreateCloud(name="x", right_grace_s=1e6)),
    "endless right": lambda c: c.create_cloud(CreateCloud(name="x", right_length_s=float("inf"))),
    "no right": lambda c: c.create_cloud(CreateCloud(name="x", right_length_s=float("nan"))),
    "a stream's port": lambda c: c.open_stream("web", kind=StreamKind.CONSOLE, port=80),
    "a stream without": lambda c: c.open_stream("web", kind=StreamKind.TCP),
}


async def test_bad_requests_are_refused_in_one_line_and_change_nothing(bench: Bench) -> None:
    control = bench.control
    await bench.blanket("north")
    await bench.run()
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB))

    async def everything() -> list[object]:
        shown = (control.providers, control.clouds, control.images, control.networks, control.volumes)
        return [await show() for show in shown] + [
            [one.name for one in await control.instances()],
            [one.id for one in await control.operations()],
            [one.id for one in await control.blankets()],
        ]

    before = await everything()
    for kind, requests in ((NotFound, UNKNOWN), (Conflict, IN_USE), (InvalidInput, INVALID)):
        for name, request in requests.items():
            with pytest.raises(kind) as refused:
                await request(control)
                pytest.fail(f"accepted: {name}")
            assert "\n" not in refused.value.message and len(refused.value.message) < 200, name
            assert "constraint" not in refused.value.message, (name, refused.value.message)
    assert await everything() == before
