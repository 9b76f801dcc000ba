"""User data over its life: open where its instance is, encrypted elsewhere, and gone with its key."""

from __future__ import annotations

import pytest
from control_rig import Bench, World, unopenable

from supercloud.keystore.userdata import keep_user_data
from supercloud.model.errors import Conflict, NotFound, SupercloudError
from supercloud.model.names import new_id
from supercloud.model.states import InstanceState, OperationState
from supercloud.ports.agent import StopMode, UserData
from supercloud.services.requests import RunInstance
from supercloud.services.store import tables
from supercloud.services.views import OperationView

pytestmark = pytest.mark.contract


async def _key_of(world: World, data: UserData, instance: str) -> object:
    blanket = next(iter(world.site.machines))
    (cloud,) = {one.birth.cloud for one in world.site.machines.values()}
    return await world.keys.user_data_key(cloud=cloud, instance=instance, digest=data.digest, blanket=blanket)


async def test_user_data_is_open_in_its_blankets_only_and_its_key_goes_with_it(
    bench: Bench, world: World
) -> None:
    clear = b"#cloud-config\npassword: swordfish\n"
    north, south = await bench.blanket("north"), await bench.blanket("south")
    data = await keep_user_data(world.keys, clear, instance="web")
    instance = await bench.run(user_data=data)
    assert north.seeds == {instance: clear} and south.seeds == {}
    await bench.done(await bench.control.migrate_instance("web", to="south"))
    assert south.seeds == {instance: clear}
    await bench.done(await bench.control.stop_instance("web", mode=StopMode.SHUTDOWN))
    south.seeds.clear()
    await bench.done(await bench.control.start_instance("web"))
    assert south.seeds == {instance: clear}
    async with bench.parts.store.read() as session:
        row = await session.get_one(tables.Instance, instance)
    assert (row.user_data, row.user_data_digest) == (data.ciphertext, data.digest)

    with pytest.raises(Conflict, match="another instance's"):
        await bench.run("thief", "south", user_data=data)
    with pytest.raises(Conflict, match="already"):
        await bench.run(user_data=data)
    assert await _key_of(world, data, instance), "what was refused does not cost it its key"
    await bench.done(await bench.control.remove_instance("web", force=True))
    with pytest.raises(NotFound):
        await _key_of(world, data, instance)


async def test_no_key_is_left_of_user_data_that_no_instance_has(bench: Bench, world: World) -> None:
    await bench.blanket("north")

    async def asked(*networks: str) -> tuple[UserData, OperationView | SupercloudError]:
        data = await keep_user_data(world.keys, b"x", instance="web")
        request = RunInstance(
            name="web", cloud="c", image="debian", on="north", networks=networks, user_data=data
        )
        try:
            return data, await bench.control.run_instance(request)
        except SupercloudError as error:
            return data, error

    refused, why = await asked("nowhere")
    assert isinstance(why, NotFound)
    first, view = await asked()
    late, joined = await asked()
    assert isinstance(view, OperationView)
    assert isinstance(joined, Conflict) or (isinstance(joined, OperationView) and joined.id == view.id)
    instance = (await bench.done(view)).object
    for data in (refused, late):
        with pytest.raises(NotFound):
            await _key_of(world, data, new_id())
    assert await _key_of(world, first, instance)


async def test_an_instance_whose_user_data_has_no_key_fails_and_says_so(bench: Bench) -> None:
    await bench.blanket("north")
    request = RunInstance(name="web", cloud="c", image="debian", on="north", user_data=unopenable(b"x"))
    view = await bench.done(await bench.control.run_instance(request), OperationState.FAILED)
    assert view.error is not None and "no key of user data" in view.error["message"]
    shown = await bench.control.instance("web")
    assert (shown.state, "no key of user data" in shown.reason) == (InstanceState.FAILED, True)
    assert (await bench.parts.rights.standing(shown.id)).record.holder is None
    await bench.done(await bench.control.remove_instance("web"))
