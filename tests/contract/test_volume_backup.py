"""A volume's backup: an image that its cloud can use, and nothing else stays, whatever happens meanwhile.

Over the doubles of control_rig, on both databases.
"""

from __future__ import annotations

import asyncio

import pytest
from blanket_double import Double
from control_rig import Bench, World, furnish
from sqlalchemy import select

from supercloud.model.errors import Conflict, NotFound, Refused
from supercloud.model.names import MIB
from supercloud.model.states import InstanceState, OperationState
from supercloud.services import volume_backup
from supercloud.services.requests import CreateCloud, CreateVolume, RunInstance
from supercloud.services.store.tables import VolumeCopy
from supercloud.services.views import OperationView

pytestmark = pytest.mark.contract


async def detached(bench: Bench) -> Double:
    """A blanket with an instance, and a volume `data` beside it that was attached once."""
    north = await bench.blanket("north")
    await bench.run()
    await bench.control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB))
    await bench.done(await bench.control.attach_volume("data", instance="web"))
    await bench.done(await bench.control.detach_volume("data"))
    return north


async def phase(bench: Bench, view: OperationView, wanted: str) -> OperationView:
    async with asyncio.timeout(20):
        while wanted not in view.phase:
            assert view.ended_at is None, view.error
            view = await bench.control.operation(view.id, wait_s=5)
    return view


async def nothing_stays(bench: Bench, north: Double) -> None:
    """No image, no copy but the volumes' own, no file, no key of an image."""
    assert {image.name for image in await bench.control.images()} == {"debian"}
    assert len(north.copies) == 2 and not list(bench.site.folder.glob("*.file"))
    assert len(list(bench.parts.settings.images.iterdir())) == 1
    async with bench.parts.store.read() as session:
        assert set(await session.scalars(select(VolumeCopy.id))) == set(north.copies)
    (cloud,) = await bench.control.clouds()
    for digest in bench.site.image_keys:
        with pytest.raises(NotFound):
            await bench.parts.keys.image_key(cloud=cloud.id, digest=digest, blanket=north.birth.blanket)


async def test_it_is_an_image_that_volumes_and_instances_begin_with(bench: Bench) -> None:
    north = await detached(bench)
    view = await bench.done(await bench.control.back_up_volume("data", image="saved"))
    image = await bench.control.image("saved")
    assert view.result is not None and view.result["digest"] == image.digest
    assert image.complete and image.virtual_bytes == 8 * MIB
    assert len(north.copies) == 2, "what was made in the blanket is gone"

    await bench.control.create_volume(
        CreateVolume(name="restored", cloud="c", size_bytes=8 * MIB, image="saved")
    )
    await bench.done(await bench.control.attach_volume("restored", instance="web"))  # with the image's key
    assert image.digest in north.images
    request = RunInstance(name="again", cloud="c", image="saved", on="north")
    await bench.done(await bench.control.run_instance(request))

    with pytest.raises(Conflict, match="based on"):
        await bench.control.remove_image("saved")
    await bench.done(await bench.control.remove_instance("again", force=True))
    await bench.done(await bench.control.detach_volume("restored"))
    await bench.done(await bench.control.remove_volume("restored"))
    await bench.control.remove_image("saved")
    await nothing_stays(bench, north)


async def test_a_running_instance_goes_on_and_does_not_move_meanwhile(bench: Bench) -> None:
    await detached(bench)
    await bench.blanket("south")
    await bench.done(await bench.control.attach_volume("data", instance="web"))
    bench.site.hold_backups = True
    asked = await bench.control.back_up_volume("data", image="saved")
    await phase(bench, asked, "making")
    with pytest.raises(Conflict, match="under way"):
        await bench.control.migrate_instance("web", to="south")
    bench.site.hold_backups = False
    await bench.done(asked)
    assert (await bench.control.image("saved")).complete
    assert (await bench.control.instance("web")).state is InstanceState.RUNNING


async def test_what_cannot_be_is_refused_before_anything_starts(bench: Bench) -> None:
    await detached(bench)
    await bench.control.create_volume(CreateVolume(name="empty", cloud="c", size_bytes=8 * MIB))
    before = await bench.control.operations()
    for volume, image, why in (("data", "debian", "already"), ("empty", "saved", "no data")):
        with pytest.raises(Conflict, match=why):
            await bench.control.back_up_volume(volume, image=image)
    assert await bench.control.operations() == before


async def test_its_key_is_its_clouds_only(bench: Bench) -> None:
    await detached(bench)
    await bench.done(await bench.control.back_up_volume("data", image="saved"))
    await bench.control.create_cloud(CreateCloud(name="other"))
    await bench.blanket("there", cloud="other")
    request = RunInstance(name="theirs", cloud="other", image="saved")
    with pytest.raises(Refused, match="another cloud's"):
        await bench.control.run_instance(request)
    image, there = await bench.control.image("saved"), await bench.control.blanket("there")
    cloud = await bench.control.cloud("other")
    with pytest.raises(NotFound, match="no key of an image"):  # whatever the control plane says
        await bench.parts.keys.image_key(cloud=cloud.id, digest=image.digest, blanket=there.id)


async def test_a_stream_that_breaks_is_gone_on_with_where_it_ended(bench: Bench) -> None:
    north = await detached(bench)
    north.sends_at_most = 130_000  # of 300,000 bytes
    await bench.done(await bench.control.back_up_volume("data", image="saved"))
    assert (await bench.control.image("saved")).complete


async def test_given_up_it_leaves_nothing(bench: Bench) -> None:
    north = await detached(bench)
    bench.site.hold_backups = True
    asked = await bench.control.back_up_volume("data", image="saved")
    await phase(bench, asked, "making")
    with pytest.raises(Conflict, match="under way"):
        await bench.control.attach_volume("data", instance="web")
    assert (await bench.control.back_up_volume("data", image="saved")).id == asked.id, "it joins"
    await bench.control.cancel(asked.id)
    await bench.done(asked, OperationState.CANCELLED)
    await nothing_stays(bench, north)


async def test_given_up_in_the_middle_of_the_file_it_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = await detached(bench)
    monkeypatch.setattr(volume_backup, "_AGAIN_S", 0.05)
    north.sends_at_most = 0
    asked = await bench.control.back_up_volume("data", image="saved")
    await phase(bench, asked, "storing")
    north.sends_at_most = 50_000
    await bench.control.cancel(asked.id)
    await bench.done(asked, OperationState.CANCELLED)
    await nothing_stays(bench, north)


async def test_a_file_that_is_not_what_was_made_is_refused(bench: Bench) -> None:
    north = await detached(bench)
    north.sends_at_most = 0
    asked = await bench.control.back_up_volume("data", image="saved")
    await phase(bench, asked, "storing")
    (file,) = (one for one in bench.site.folder.glob("*.file") if not one.stem.endswith("-cut"))
    file.write_bytes(bytes(file.stat().st_size))
    north.sends_at_most = 1 << 40
    view = await bench.done(asked, OperationState.FAILED)
    assert view.error is not None and "another digest" in view.error["message"]
    await nothing_stays(bench, north)


async def test_nobody_but_the_blanket_says_what_the_image_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = await detached(bench)
    honest = north.vouches
    monkeypatch.setattr(north, "vouches", lambda volume, copy, _: honest(volume, copy, "sha256:" + "0" * 64))
    view = await bench.done(await bench.control.back_up_volume("data", image="saved"), OperationState.FAILED)
    assert view.error is not None and view.error["code"] == "denied"
    await nothing_stays(bench, north)


async def test_a_restarted_controller_goes_on_with_it(world: World) -> None:
    async with world.up() as bench:
        await furnish(bench, world.keys)
        north = await detached(bench)
        world.site.hold_backups = True
        asked = await bench.control.back_up_volume("data", image="saved")
        await phase(bench, asked, "making")
    world.site.hold_backups = False
    async with world.up() as bench:
        await bench.done(asked)
        assert (await bench.control.image("saved")).complete and len(north.copies) == 2


async def test_what_stays_in_a_blanket_that_was_away_goes_when_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = await detached(bench)
    monkeypatch.setattr(volume_backup, "_INSIST_S", 1.0)
    north.sends_at_most = 0
    asked = await bench.control.back_up_volume("data", image="saved")
    await phase(bench, asked, "storing")
    await north.end()
    view = await bench.done(asked, OperationState.FAILED)
    assert view.error is not None and view.error["code"] == "unavailable"
    assert len(north.copies) == 3
    north.start()
    async with asyncio.timeout(30):
        while len(north.copies) > 2:  # noqa: ASYNC110 - what a machine has has no event
            await asyncio.sleep(0.05)
    await nothing_stays(bench, north)
