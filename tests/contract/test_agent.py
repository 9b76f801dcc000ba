"""The real agent and the real keeper over fake drivers: flows, kills, cuts and repeats."""

import asyncio
from dataclasses import replace

import pytest
from agent_rig import World, both, kinds, landed, spec, until, world
from blanket_rig import CLOUD, Blanket

from supercloud.keystore.userdata import keep_user_data
from supercloud.model.errors import (
    Conflict,
    Denied,
    InvalidInput,
    RightRefused,
)
from supercloud.model.migration import Source, Target
from supercloud.model.names import new_id
from supercloud.ports.agent import (
    InstanceRef,
    InstanceSpec,
    ReceiveInstance,
    RunState,
    SealedKey,
    StartInstance,
    StopInstance,
    StopMode,
)
from supercloud.ports.hypervisor import TransferStatus
from supercloud.ports.overlay import Mesh
from supercloud.trust.keys import from_text, to_text
from supercloud.trust.sealing import seal, user_data_purpose
from supercloud.trust.userdata import encrypt

__all__ = ["world"]  # a fixture

pytestmark = pytest.mark.contract


# ---------------------------------------------------------------- start and stop


async def test_a_start_is_renewed_before_it_boots_and_repeating_it_boots_nothing_more(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        request = StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        report = await agent.instances.start(request)
        assert (report.state, report.epoch) == (RunState.RUNNING, 1)
        assert report.right_left_s is not None and 50 < report.right_left_s <= 60
        assert world.plane.renewals >= 1
        assert world.north.overlay.ports[guest.id] == ["t" + guest.id.replace("-", "")[:12]]
        assert (await agent.instances.start(request)).state is RunState.RUNNING
        assert world.north.hypervisor.boots == [guest.id]
        assert (await agent.report()).boot_id == "boot"


async def test_a_right_that_the_store_refuses_boots_nothing(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        stale = world.plane.issue(guest.id, world.north.id)
        world.plane.commit(guest.id, world.south.id)  # taken away before it arrived
        with pytest.raises(RightRefused):
            await agent.instances.start(StartInstance(spec=guest, right=stale))
        assert world.north.hypervisor.boots == []


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_stop_proves_that_nothing_runs_and_its_right_never_starts_again(
    world: World, stubborn: bool
) -> None:
    guest = spec()
    world.north.hypervisor.ignores_shutdown = stubborn
    async with world.north.agent() as agent:
        request = StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        await agent.instances.start(request)
        stop = StopInstance(instance=guest.id, mode=StopMode.SHUTDOWN, timeout_s=0.3)
        assert (await agent.instances.stop(stop)).state is RunState.ABSENT
        assert (await agent.instances.stop(stop)).epoch is None
        assert world.north.overlay.ports == {}
        with pytest.raises(RightRefused):  # a late repeat of the start
            await agent.instances.start(request)
        assert world.north.hypervisor.boots == [guest.id]
        await agent.instances.remove(InstanceRef(instance=guest.id))
        assert guest.id not in {report.instance for report in await agent.instances.list()}


async def test_what_runs_is_not_removed(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        await agent.instances.start(
            StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        )
        with pytest.raises(Conflict):
            await agent.instances.remove(InstanceRef(instance=guest.id))


async def test_a_guest_that_powers_off_gives_its_right_up_also_when_nobody_listens(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        await agent.instances.start(
            StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        )
        world.plane.reachable = False
        await world.plane.cut(world.north.id)
        world.north.hypervisor.show(guest.id, RunState.ABSENT, "shutdown")
        await asyncio.sleep(0.2)
        assert world.plane.rights[guest.id].holder == world.north.id
        world.plane.reachable = True
        await until(lambda: world.plane.rights[guest.id].holder is None)
        await until(lambda: "instance.ended" in kinds(world, world.north))


async def test_what_ended_while_the_agent_was_dead_is_settled_when_it_comes_back(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        await agent.instances.start(
            StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        )
    world.north.hypervisor.show(guest.id, RunState.ABSENT, "crashed")
    async with world.north.agent():
        await until(lambda: world.plane.rights[guest.id].holder is None)
    assert world.plane.hellos[-1].epochs == {guest.id: 1}  # type: ignore[attr-defined]


async def test_what_runs_unasked_is_paused_and_reported(world: World) -> None:
    async with world.north.agent():
        rogue = new_id()
        world.north.hypervisor.show(rogue, RunState.RUNNING, "libvirt resumed it")
        await until(lambda: world.north.hypervisor.states[rogue] is RunState.PAUSED)
        await until(lambda: "instance.paused" in kinds(world, world.north))


# ---------------------------------------------------------------- events


async def test_events_come_at_least_once_across_cuts_and_restarts(world: World) -> None:
    rogues = [new_id() for _ in range(3)]
    async with world.north.agent():
        await until(lambda: "agent.started" in kinds(world, world.north))
        world.plane.lose_answers = True  # stored there, not acknowledged here: it comes twice
        world.north.hypervisor.show(rogues[0], RunState.RUNNING)
        await until(lambda: kinds(world, world.north).count("instance.paused") == 1)
        await world.plane.back(world.north.id)
        world.plane.reachable = False
        await world.plane.cut(world.north.id)
        world.north.hypervisor.show(rogues[1], RunState.RUNNING)
        await until(lambda: world.north.hypervisor.states[rogues[1]] is RunState.PAUSED)
        await asyncio.sleep(0.2)
        assert kinds(world, world.north).count("instance.paused") == 1
    world.plane.reachable = True
    async with world.north.agent():
        await until(lambda: kinds(world, world.north).count("instance.paused") == 2)
    events = list(world.plane.events[world.north.id].values())
    assert world.plane.deliveries > len(events)
    assert len({event.seq for event in events}) == len(events)
    assert {event.data["instance"] for event in events if event.kind == "instance.paused"} == set(rogues[:2])


# ---------------------------------------------------------------- user data

SECRET = b"#cloud-config\npassword: correct-horse-battery-staple\n"


async def start_with_user_data(world: World, guest: InstanceSpec, place: Blanket) -> StartInstance:
    data = await keep_user_data(world.store, SECRET, instance=guest.name)
    key = await world.store.user_data_key(
        cloud=CLOUD, instance=guest.id, digest=data.digest, blanket=place.id
    )
    right = world.plane.issue(guest.id, place.id)
    return StartInstance(spec=guest, right=right, user_data=data, user_data_key=key)


async def test_user_data_is_opened_for_the_seed_and_written_nowhere_else(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        request = await start_with_user_data(world, guest, world.north)
        await north.instances.start(request)
        assert world.north.hypervisor.seeds == {guest.id: SECRET}
        await south.overlay.apply(Mesh(address="100.64.0.2", generation=1))
        assert request.user_data is not None
        await south.migration.receive(
            ReceiveInstance(
                operation=new_id(),
                spec=guest,
                source_address="100.64.0.1",
                expires_s=60,
                user_data=request.user_data,
                user_data_key=await world.store.user_data_key(
                    cloud=CLOUD, instance=guest.id, digest=request.user_data.digest, blanket=world.south.id
                ),
            )
        )
        assert world.south.hypervisor.seeds == {guest.id: SECRET}
    for place in (world.north, world.south):
        files = [path for path in place.folder.rglob("*") if path.is_file()]
        assert any(guest.id.encode() in path.read_bytes() for path in files), "the journal knows it"
        for path in files:
            content = path.read_bytes()
            assert SECRET not in content and request.user_data.ciphertext.encode() not in content, path
    assert request.user_data.ciphertext not in repr(request)


async def test_other_user_data_than_the_instances_own_boots_nothing(world: World) -> None:
    guest, other = spec(), replace(spec(), name="other")
    good = await start_with_user_data(world, guest, world.north)
    others = await start_with_user_data(world, other, world.north)
    assert good.user_data is not None and good.user_data_key is not None and others.user_data is not None
    sealed = bytearray(from_text(good.user_data.ciphertext))
    sealed[20] ^= 1
    tampered = to_text(bytes(sealed))
    honest, key = encrypt(SECRET, instance=other.name)
    passport = world.north.passport

    def sealed_again(key: bytes, digest: str) -> SealedKey:
        """As somebody would who has a blanket's public key, and a key of his own."""
        to, purpose = passport.keys.sealing.public, user_data_purpose(guest.id, digest)
        return seal(key, to=to, blanket=world.north.id, purpose=purpose)

    async with world.north.agent() as agent:
        for request, error, why in (
            (replace(good, user_data=replace(good.user_data, ciphertext=tampered)), InvalidInput, "changed"),
            (
                replace(good, user_data=replace(good.user_data, ciphertext="AAAA")),
                InvalidInput,
                "not encrypted",
            ),
            (replace(good, user_data=replace(good.user_data, ciphertext="?")), InvalidInput, "base64"),
            (replace(good, user_data=others.user_data), Denied, "not sealed for that"),
            (replace(good, user_data_key=others.user_data_key), Denied, "not sealed for that"),
            (replace(good, user_data_key=None), InvalidInput, "without its key"),
            (replace(others, spec=replace(other, name="web")), Denied, "for instance web"),
            (
                replace(good, user_data=honest, user_data_key=sealed_again(key, honest.digest)),
                Denied,
                "for instance web",
            ),
            (
                replace(good, user_data_key=sealed_again(bytes(32), good.user_data.digest)),
                Denied,
                "under this key",
            ),
            (
                replace(good, user_data_key=sealed_again(b"short", good.user_data.digest)),
                Denied,
                "under this key",
            ),
        ):
            with pytest.raises(error, match=why) as refused:
                await agent.instances.start(request)
            assert "horse" not in f"{refused.value!r} {refused.value.hint}"
        assert world.north.hypervisor.boots == [] and world.plane.renewals == 0
        assert world.north.hypervisor.seeds == {}
        await agent.instances.start(good)
    assert world.north.hypervisor.seeds == {guest.id: SECRET}


# ---------------------------------------------------------------- migration


async def test_a_migration_answers_at_the_hypervisors_word_and_resumes_without_asking_again(
    world: World,
) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        assert (await south.migration.target_status(ref)).target is Target.INCOMING
        waiting = asyncio.create_task(south.migration.target_status(ref))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        loop = asyncio.get_running_loop()
        before = loop.time()
        world.north.hypervisor.arrive(guest.id)
        assert (await waiting).target is Target.COMPLETE
        assert loop.time() - before < 0.2
        assert (await north.migration.source_status(ref)).source is Source.GONE
        assert world.plane.rights[guest.id].holder == world.north.id  # not surrendered under a migration

        right = world.plane.commit(guest.id, world.south.id)
        renewals = world.plane.renewals
        report = await south.instances.resume(StartInstance(spec=guest, right=right, operation=ref.operation))
        assert (report.state, report.epoch) == (RunState.RUNNING, 2)
        assert world.plane.renewals == renewals
        for agent in (north, south):
            await agent.migration.release(ref)
            await agent.migration.release(ref)
        assert world.south.hypervisor.states[guest.id] is RunState.RUNNING
        assert guest.id not in {report.instance for report in await north.instances.list()}
        assert world.north.forwards.open == world.south.forwards.open == {}
        assert set(world.south.overlay.grants.values()) == {0}
        assert guest.id in world.south.overlay.ports and guest.id not in world.north.overlay.ports


async def test_that_a_copy_is_complete_is_its_hypervisors_word_which_is_not_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest stands still meanwhile. Said once: whoever asks again has it looked at."""
    guest, hypervisor = spec(), world.south.hypervisor
    asked = 0

    async def state(_: str) -> RunState:
        nonlocal asked
        asked += 1
        return RunState.ABSENT

    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        assert (await south.migration.target_status(ref)).target is Target.INCOMING
        waiting = asyncio.create_task(south.migration.target_status(ref))
        await asyncio.sleep(0.1)
        monkeypatch.setattr(hypervisor, "state", state)
        world.north.hypervisor.arrive(guest.id)
        assert (await waiting).target is Target.COMPLETE
        assert asked == 0
        assert (await south.migration.target_status(ref)).target is Target.LOST
        assert asked == 1


async def test_that_a_copy_is_complete_is_looked_at_where_nobody_has_seen_it_come(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        world.north.hypervisor.arrive(guest.id)
        await asyncio.sleep(0.05)
        world.south.hypervisor.states[guest.id] = RunState.ABSENT
        assert (await south.migration.target_status(ref)).target is Target.LOST


async def test_a_source_whose_process_is_being_ended_is_waited_for_and_known_to_be_gone_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt refuses to say how it is meanwhile; its process's end is known before libvirt knows it."""
    guest, hypervisor = spec(), world.north.hypervisor
    ended = False

    async def state(_: str) -> RunState:
        raise Conflict("Requested operation is not valid: domain is not running")

    async def transfer(_: str) -> TransferStatus:
        return TransferStatus(over=False, ended=ended)

    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        monkeypatch.setattr(hypervisor, "state", state)
        monkeypatch.setattr(hypervisor, "transfer", transfer)
        assert (await north.migration.source_status(ref)).source is Source.ALIVE
        waiting = asyncio.create_task(north.migration.source_status(ref))
        ended = True
        hypervisor.show(guest.id, RunState.ABSENT, "its process ended")
        seen = await waiting
        assert seen.source is Source.GONE and not seen.transfer_over
        monkeypatch.undo()
        hypervisor.arrive(guest.id)


async def test_a_resume_of_another_operation_has_to_ask_first(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        world.north.hypervisor.arrive(guest.id)
        assert (await south.migration.target_status(ref)).target is Target.COMPLETE
        stale = world.plane.commit(guest.id, world.south.id)
        world.plane.commit(guest.id, world.north.id)
        with pytest.raises(RightRefused):
            await south.instances.resume(StartInstance(spec=guest, right=stale, operation=new_id()))
        assert world.south.hypervisor.states[guest.id] is RunState.PAUSED


async def test_both_agents_killed_in_the_middle_adopt_the_transfer(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
    world.north.hypervisor.arrive(guest.id)
    async with both(world) as (north, south):
        assert (await north.migration.source_status(ref)).source is Source.GONE
        assert (await south.migration.target_status(ref)).target is Target.COMPLETE
        await asyncio.sleep(0.2)
        assert world.plane.rights[guest.id].holder == world.north.id
        right = world.plane.commit(guest.id, world.south.id)
        report = await south.instances.resume(StartInstance(spec=guest, right=right))  # asks first: fine too
        assert report.state is RunState.RUNNING
        await north.migration.release(ref)
        await south.migration.release(ref)
        assert world.south.hypervisor.states[guest.id] is RunState.RUNNING


async def test_a_cancelled_migration_goes_on_at_the_source_and_leaves_nothing_at_the_target(
    world: World,
) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        report = await north.migration.cancel(ref)
        assert (report.source, report.transfer_over, report.reason) == (Source.ALIVE, True, "cancelled")
        world.south.hypervisor.show(guest.id, RunState.PAUSED)  # a copy that libvirt left behind
        await south.migration.release(ref)
        await north.migration.release(ref)
        assert world.south.hypervisor.states[guest.id] is RunState.ABSENT
        assert world.north.hypervisor.states[guest.id] is RunState.RUNNING
        (left,) = await north.instances.list()
        assert left.epoch == 1 and left.right_left_s
