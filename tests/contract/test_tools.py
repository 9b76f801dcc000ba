"""The user's own libvirt tools over doubles, on both databases: who is let in where, what is seen of what
they made, and what becomes of it when it is adopted.
"""

from __future__ import annotations

import asyncio
import socket
import stat
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from api_rig import served
from blanket_double import Double
from control_rig import Bench, World, furnish
from sqlalchemy import select

from supercloud.cli.libvirt import listening, uri_of
from supercloud.model.errors import Conflict, InvalidInput, NotFound, Refused, SupercloudError
from supercloud.model.levels import Level, Thing
from supercloud.model.names import MIB, new_id
from supercloud.model.quota import Quota
from supercloud.model.states import InstanceState, OperationState
from supercloud.ports.agent import RunState
from supercloud.ports.tools import ForeignVm
from supercloud.services.level_views import SetLevel
from supercloud.services.requests import AdoptVm, CreateVolume, RunInstance
from supercloud.services.store.tables import VolumeCopy

pytestmark = pytest.mark.contract


def foreign(north: Double, name: str = "old", **differs: object) -> ForeignVm:
    """What tools made there: shut off, with one disk of 64 MiB."""
    made = ForeignVm(
        id=new_id(), name=name, state=RunState.DEFINED, vcpus=2, memory_mib=128, disk_bytes=64 * MIB
    )
    made = replace(made, **differs)  # type: ignore[arg-type]
    north.foreign[made.id] = made
    return made


def wanted(vm: str = "old", **more: object) -> AdoptVm:
    return AdoptVm(vm=vm, blanket="north", cloud="c", name="web", **more)  # type: ignore[arg-type]


async def untouched(bench: Bench, north: Double) -> None:
    """Nothing stays of an adoption that came to nothing."""
    assert [one.name for one in await bench.control.images()] == ["debian"]
    assert not await bench.control.instances() and not await bench.control.volumes()
    assert not north.copies and not list(bench.site.folder.glob("*.file"))
    async with bench.parts.store.read() as session:
        assert not (await session.scalars(select(VolumeCopy.id))).all()


# ---------------------------------------------------------------- letting them in


async def test_a_program_that_knows_libvirt_alone_speaks_to_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a socket that nobody else gets at, each connection a stream of its own."""
    said_why: list[SupercloudError] = []
    monkeypatch.setattr("supercloud.cli.libvirt.print_error", said_why.append)
    async with served(world, tmp_path / "h") as api:
        await furnish(api.bench, world.keys)
        north = await api.bench.blanket("north")
        with pytest.raises(Conflict, match="no tools were let in"):
            await api.bench.control.tools_stream("north")
        client = api.client()
        await asyncio.to_thread(client.post, "/blankets/north/tools")
        assert north.tools.opened == 1 and (await api.bench.control.blanket("north")).tools
        async with listening(client, "/blankets/north/tools") as at:
            assert stat.S_IMODE(at.parent.stat().st_mode) == 0o700
            assert uri_of(at) == f"qemu:///system?socket={at}"
            pairs = [await asyncio.open_unix_connection(at) for _ in range(3)]
            for number, (reader, writer) in enumerate(pairs):
                said = bytes([number]) * 300_000
                writer.write(said)
                async with asyncio.timeout(20):
                    assert await reader.readexactly(len(said)) == said
            for _, writer in pairs:
                writer.close()
            volume = CreateVolume(name="data", cloud="c", size_bytes=MIB, on="north")
            await api.bench.control.create_volume(volume)
            await api.bench.control.set_level(Thing.VOLUME, "data", SetLevel(level=Level.BASELINE))
            reader, writer = await asyncio.open_unix_connection(at)
            async with asyncio.timeout(10):
                assert await reader.read() == b"", "what is refused is closed"
            assert ["volume data is baseline" in one.message for one in said_why] == [True]
        assert not at.parent.exists()


async def test_a_socket_that_libvirt_hands_over_is_one_of_this_machine(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As virt-viewer and virt-manager take a VM's screen: with a byte after the reply that tells of it."""
    said_why: list[SupercloudError] = []
    monkeypatch.setattr("supercloud.cli.libvirt.print_error", said_why.append)
    reply = struct.pack(">IIIiiIiI", 32, 0x20008086, 1, 359, 5, 7, 0, 2) + b"\0\0"
    async with served(world, tmp_path / "h") as api:
        await furnish(api.bench, world.keys)
        north = await api.bench.blanket("north")
        client = api.client()
        await asyncio.to_thread(client.post, "/blankets/north/tools")
        with pytest.raises(InvalidInput, match="name it"):
            await api.bench.control.tools_stream("north", handed=0)
        with pytest.raises(NotFound, match="no such connection"):
            await api.bench.control.tools_stream("north", connection="ab" * 16, handed=0)
        async with listening(client, "/blankets/north/tools") as at:
            screens = await asyncio.to_thread(_handed_over, at, reply)
            for number, screen in enumerate(screens):
                reader, writer = await asyncio.open_unix_connection(sock=screen)
                async with asyncio.timeout(20):
                    said = bytes([number]) * 300_000
                    writer.write(said)
                    assert await reader.readexactly(len(said)) == said
                writer.close()
        assert sorted(north.tools.handed) == [0, 1] and not said_why


def _handed_over(at: Path, reply: bytes) -> list[socket.socket]:
    """By one that hears what it said: a program of libvirt's own would have asked for it."""
    with socket.socket(socket.AF_UNIX) as program:
        program.settimeout(20)
        program.connect(str(at))
        program.sendall(reply)
        heard, handed = b"", []
        while len(heard) < len(reply):
            data, descriptors, _, _ = socket.recv_fds(program, 1000, 4)
            heard += data
            handed += descriptors
        assert heard == reply
        return [socket.socket(fileno=one) for one in handed]


async def test_a_level_from_baseline_on_and_tools_exclude_each_other(bench: Bench) -> None:
    control = bench.control
    await bench.blanket("north")
    await bench.run(level=Level.BASELINE)
    with pytest.raises(Refused, match="instance web is baseline and in blanket north"):
        await control.let_tools_in("north")
    assert not (await control.blanket("north")).tools
    await control.set_level(Thing.INSTANCE, "web", SetLevel(level=Level.OPEN, lower=True))
    await control.set_level(Thing.NETWORK, "lan", SetLevel(level=Level.HARDENED))
    with pytest.raises(Refused, match="network lan is hardened"):
        await control.let_tools_in("north")
    await control.set_level(Thing.NETWORK, "lan", SetLevel(level=Level.OPEN, lower=True))
    await control.create_volume(
        CreateVolume(name="data", cloud="c", size_bytes=MIB, on="north", level=Level.BASELINE)
    )
    with pytest.raises(Refused, match="volume data is baseline"):
        await control.let_tools_in("north")
    await bench.done(await control.remove_volume("data"))

    await control.let_tools_in("north")
    shown = await control.blanket("north")
    assert shown.tools and shown.gives is Level.OPEN
    await (await control.tools_stream("north")).close()
    request = RunInstance(name="db", cloud="c", image="debian", on="north", level=Level.BASELINE)
    with pytest.raises(Refused, match="access of libvirt tools to the blanket is present"):
        await control.run_instance(request)
    with pytest.raises(Refused, match="volume data may not be in blanket north"):
        await control.create_volume(
            CreateVolume(name="data", cloud="c", size_bytes=MIB, on="north", level=Level.BASELINE)
        )
    change = await control.set_level(Thing.INSTANCE, "web", SetLevel(level=Level.BASELINE))
    assert [one.name for one in change.must_move] == ["web"]
    with pytest.raises(Refused, match="instance web is baseline"):
        await control.tools_stream("north")


async def test_while_something_of_a_level_comes_nobody_is_let_in(bench: Bench) -> None:
    """Whichever is decided first keeps the other out, however many ask."""
    await bench.blanket("north")
    request = RunInstance(name="web", cloud="c", image="debian", on="north", level=Level.BASELINE)
    asked = (bench.control.run_instance(request), *(bench.control.let_tools_in("north") for _ in range(3)))
    found = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in found if isinstance(one, Refused)]
    assert all(one is None or not isinstance(one, Exception) or isinstance(one, Refused) for one in found), (
        found
    )
    let_in = (await bench.control.blanket("north")).tools
    assert len(refused) == (1 if let_in else 3), found
    assert let_in == (not await bench.control.instances())


async def test_a_blanket_of_before_has_no_place_for_them(bench: Bench) -> None:
    north = await bench.blanket("north")
    north.differs["takes_tools"] = False
    north.restart()
    async with asyncio.timeout(20):
        while True:
            try:
                await bench.control.let_tools_in("north")
            except Refused as refused:
                assert "has no place for tools" in refused.message and "add a new blanket" in str(
                    refused.hint
                )
                break
            await asyncio.sleep(0.05)
    await bench.done(await bench.control.stop_blanket("north"))
    with pytest.raises(Conflict, match="not connected"):
        await bench.control.let_tools_in("north")


async def test_what_they_made_is_shown(bench: Bench) -> None:
    north = await bench.blanket("north")
    foreign(north, "b"), foreign(north, "a", obstacle="it is not shut off", state=RunState.RUNNING)
    assert not (await bench.control.foreign_vms("north")).vms, "where none were let in nobody is asked"
    await bench.control.let_tools_in("north")
    shown = await bench.control.foreign_vms("north")
    assert [(one.name, one.adoptable, one.obstacle) for one in shown.vms] == [
        ("a", False, "it is not shut off"),
        ("b", True, ""),
    ]
    assert not await bench.control.instances(), "they are none of ours"


# ---------------------------------------------------------------- adopting


async def test_what_is_adopted_runs_as_an_instance_and_is_gone_as_what_it_was(bench: Bench) -> None:
    north = await bench.blanket("north")
    vm = foreign(north)
    view = await bench.done(await bench.control.adopt_vm(wanted(networks=("lan",))))
    web = await bench.control.instance("web")
    assert view.result == {
        "instance": web.id,
        "name": "web",
        "image": (await bench.control.image("web")).id,
        "vm": vm.id,
    }
    assert (web.state, web.vcpus, web.memory_mib, web.image) == (InstanceState.RUNNING, 2, 128, "web")
    assert web.epoch == 1 and web.addresses and bench.site.running(web.id) == ["north"]
    assert not north.foreign
    (root,) = await bench.control.volumes()
    assert (root.name, root.size_bytes, root.image) == ("web-root", 64 * MIB, "web")
    assert [copy.volume for copy in north.copies.values()] == [root.id], "nothing is left of the way there"
    assert (await bench.control.image("web")).complete


async def test_by_its_id_and_to_where_its_level_is_held(bench: Bench) -> None:
    """Its image travels, so that it leaves the blanket that tools were let in to."""
    north, south = await bench.blanket("north"), await bench.blanket("south")
    await bench.control.let_tools_in("north")
    vm = foreign(north, "Windows 11")
    with pytest.raises(Refused, match="may not be in blanket north"):
        await bench.control.adopt_vm(wanted(vm.id, level=Level.BASELINE, on="north"))
    await bench.done(await bench.control.adopt_vm(wanted(vm.id, level=Level.BASELINE)))
    web = await bench.control.instance("web")
    assert (web.blanket, web.level) == ("south", Level.BASELINE) and len(south.copies) == 1
    assert not north.copies and not north.foreign


async def test_what_cannot_be_is_refused_with_the_reason_and_nothing_is_begun(bench: Bench) -> None:
    north = await bench.blanket("north")
    foreign(north), foreign(north, "busy", obstacle="it is not shut off")
    with pytest.raises(NotFound, match="no VM nosuch of tools in blanket north"):
        await bench.control.adopt_vm(wanted("nosuch"))
    with pytest.raises(Conflict, match="busy cannot be adopted: it is not shut off"):
        await bench.control.adopt_vm(wanted("busy"))
    with pytest.raises(Conflict, match="an image debian already"):
        await bench.control.adopt_vm(replace(wanted(), name="debian"))
    with pytest.raises(NotFound):
        await bench.control.adopt_vm(wanted(networks=("nosuch",)))
    for name, odd in (("huge", {"vcpus": 65}), ("none", {"disk_bytes": 0}), ("tiny", {"memory_mib": 1})):
        lies = foreign(north, name, **odd)
        with pytest.raises(InvalidInput):
            await bench.control.adopt_vm(wanted(name))
        del north.foreign[lies.id]
    await bench.control.set_quota("c", Quota(vcpus=1))
    with pytest.raises(Refused, match="quota"):
        await bench.control.adopt_vm(wanted())
    assert not [one for one in await bench.control.operations() if one.kind == "blanket.adopt"]
    assert len(north.foreign) == 2
    await untouched(bench, north)


async def test_it_is_called_what_no_other_instance_or_image_is(world: World, tmp_path: Path) -> None:
    """By default as the VM, if that is a name for an instance at all."""
    async with served(world, tmp_path / "h") as api:
        await furnish(api.bench, world.keys)
        north, control = await api.bench.blanket("north"), api.bench.control
        await control.let_tools_in("north")
        await api.bench.run("taken", on="north")
        foreign(north, "Windows 11"), foreign(north, "taken"), foreign(north, "old")
        where = ("--blanket", "north", "--cloud", "c")
        said = await api.wrong("vm", "adopt", "Windows 11", *where, status=2)
        assert "'Windows 11' is no name for an instance" in said and "--name" in said
        said = await api.wrong("vm", "adopt", "taken", *where, status=4)
        assert "there is an instance taken already" in said and "--name" in said
        said = await api.wrong("vm", "adopt", "old", *where, "--name", "debian", status=4)
        assert "there is an image debian already" in said
        assert not [one for one in await control.operations() if one.kind == "blanket.adopt"]
        await api.ok("vm", "adopt", "Windows 11", *where, "--name", "windows")
        assert (await control.instance("windows")).state is InstanceState.RUNNING
        assert "Windows 11" not in {one.name for one in north.foreign.values()}


async def test_what_was_started_meanwhile_is_not_adopted(bench: Bench) -> None:
    north = await bench.blanket("north")
    vm = foreign(north)
    bench.site.hold_backups = True
    view = await bench.control.adopt_vm(wanted())
    again = await bench.control.adopt_vm(wanted())
    assert again.id == view.id, "asked for again, it is the same"
    north.foreign[vm.id] = replace(vm, state=RunState.RUNNING)
    bench.site.hold_backups = False
    view = await bench.done(view, OperationState.FAILED)
    assert view.error is not None and "old runs" in view.error["message"]
    assert north.foreign, "it is left as it is"
    await untouched(bench, north)


async def test_given_up_it_leaves_everything_as_it_was(bench: Bench) -> None:
    north = await bench.blanket("north")
    foreign(north)
    bench.site.hold_backups = True
    view = await bench.control.adopt_vm(wanted())
    async with asyncio.timeout(20):
        while "making" not in view.phase:
            view = await bench.control.operation(view.id, wait_s=5)
    await bench.control.cancel(view.id)
    await bench.done(view, OperationState.CANCELLED)
    assert north.foreign
    await untouched(bench, north)


async def test_if_no_instance_comes_of_it_there_is_the_image(bench: Bench) -> None:
    north = await bench.blanket("north")
    foreign(north)
    bench.site.hold_backups = True
    view = await bench.control.adopt_vm(wanted())
    await bench.control.set_quota("c", Quota(vcpus=0))
    bench.site.hold_backups = False
    view = await bench.done(view, OperationState.FAILED)
    assert view.error is not None and "its disk is image web now" in view.error["message"]
    assert view.error["hint"] == "supercloud vm run web --image web"
    assert (await bench.control.image("web")).complete and not north.foreign and not north.copies
