"""What has to be so once faults are over: the table of model.migration, the disk, and nothing left behind."""

from __future__ import annotations

import asyncio

from supercloud.model.errors import DataLost, SupercloudError
from supercloud.model.names import Id
from supercloud.simulator.blanket import SimBlanket
from supercloud.simulator.qemu import DiskFile
from supercloud.simulator.world import SimWorld

_LOOK_S = 5.0
_STABLE = 3  # looks in a row that find nothing wrong
#: Faults after which nobody may say that the instance had to stop.
_HARMLESS = frozenset({"kill controller", "kill agent north", "kill agent south"})


async def settle(world: SimWorld, operation: str, ended: str, *, faults: tuple[str, ...]) -> list[str]:
    """What is wrong and stays so; nothing, after a good run."""
    terms = world.terms
    looks = int((2 * (terms.length_s + terms.margin_s) + terms.grace_s + 150) / _LOOK_S)
    stable = 0
    wrong: list[str] = []
    for _ in range(looks):
        await asyncio.sleep(_LOOK_S)
        wrong = _wrong(world, operation)
        stable = 0 if wrong else stable + 1
        if stable >= _STABLE and _calm(world):
            break
    wrong += _promised(operation, ended, faults, running=len(world.observer.executing(world.instance)))
    if not wrong and not world.observer.executing(world.instance):
        wrong += await _start_again(world)
    return wrong


def _calm(world: SimWorld) -> bool:
    return all(one.up and not one.machine.stopped for one in world.blankets.values()) and world.controller.up


def _wrong(world: SimWorld, operation: str) -> list[str]:
    state, reason, at, holder = world.controller.instance(world.instance)
    executing = world.observer.executing(world.instance)
    found = []
    if len(executing) == 1:
        where = executing[0]
        if state != "running" or at != where.id:
            found.append(f"it executes in {where.name}, the store says {state} in {_name(world, at)}")
        if holder != where.id:
            found.append(f"it executes in {where.name}, {_name(world, holder)} holds the right")
        if not where.rolled_back and world.observer.accepted(world.instance) != executing:
            found.append(f"nobody accepts what {where.name} sends")
    elif not executing:
        if state in ("running", "starting", "migrating", "stopping", "preparing"):
            found.append(f"no copy executes, the store says {state}")
        if not reason and not (operation == "stop" and state == "stopped") and state != "created":
            found.append(f"no copy executes ({state}), and no reason is given")
    return found + _left_behind(world, executing) + _disk(world, executing) + mesh(world)


def _left_behind(world: SimWorld, executing: list[SimBlanket]) -> list[str]:
    found = []
    open_operations = world.controller.open_operations()
    if open_operations:
        found.append(f"{open_operations} operations have not ended")
    holder = world.controller.holder(world.instance)
    for blanket in _honest(world):
        if world.instance in blanket.processes.present and blanket not in executing and blanket.id != holder:
            found.append(f"a copy is left in {blanket.name}")
        if blanket.forwards.open and not world.controller.restored:
            found.append(f"forwards are left in {blanket.name}")
        strays = set(blanket.files) - world.controller.current_copies()
        if strays and not world.controller.restored:
            found.append(f"{len(strays)} copies of the volume are left in {blanket.name}")
    return found


def _disk(world: SimWorld, executing: list[SimBlanket]) -> list[str]:
    """Every write that a guest synced is in the copy that it goes on from."""
    promised = world.observer.promised[world.instance]
    files = [file for blanket in world.blankets.values() for file in blanket.files.values()]
    if world.controller.restored:  # rows of before do not know the copies made since: none may be deleted
        return (
            []
            if not promised or any(promised <= set(file.synced) for file in files)
            else ["synced writes are lost"]
        )
    current = world.controller.current_copies()
    used: list[DiskFile] = [file for file in files if file.copy in current]
    for blanket in executing:
        used = blanket.processes.present[world.instance].disks
    for file in used:
        if missing := promised - set(file.synced):
            return [f"{len(missing)} synced writes are lost, the first is {min(missing)}"]
    return [] if used or not promised else ["the volume is gone"]


def mesh(world: SimWorld) -> list[str]:
    """Every blanket that is accepted hears every other, by the keys that it uses."""
    found = []
    honest = _honest(world)
    for blanket in honest:
        for other in honest:
            peers = {peer.blanket: peer for peer in other.overlay._known.mesh.peers}
            if other is blanket:
                continue
            if blanket.id not in peers or world.key(blanket) not in peers[blanket.id].keys:
                found.append(f"{other.name} does not know the key of {blanket.name}")
    return found


def _honest(world: SimWorld) -> list[SimBlanket]:
    """Those that were neither revoked nor undone by their L0, whose overlay is its own affair."""
    return [
        one for one in world.blankets.values() if not world.controller.revoked(one.id) and not one.rolled_back
    ]


def _promised(operation: str, ended: str, faults: tuple[str, ...], *, running: int) -> list[str]:
    """What a fault alone may not cost."""
    found = []
    if (not faults or set(faults) == {"kill controller"}) and not ended.startswith("succeeded"):
        found.append(f"{operation} {ended}")
    if set(faults) <= _HARMLESS and operation in ("migrate", "rotate") and not running:
        found.append("it does not run any more")
    return found


async def _start_again(world: SimWorld) -> list[str]:
    """Whatever happened, its owner can start it where its disk is; if the blanket is still accepted."""
    state, _, at, _ = world.controller.instance(world.instance)
    if at is None or world.controller.revoked(at) or world.controller.restored:
        return []
    terms = world.terms
    said = ""
    gone = _undone_without_volume(world, at)
    for _ in range(int(2 * (terms.length_s + terms.margin_s) / _LOOK_S) + 4):
        try:
            view = await world.controller.ask(lambda control: control.start_instance("vm"))
            said = " ".join(await world.controller.until_ended(view.id, timeout_s=600))
        except SupercloudError as error:
            said = error.message
        if said.startswith("succeeded"):
            await asyncio.sleep(_LOOK_S)
            return ["an empty volume passes for the lost one"] if gone else _wrong(world, "start")
        if gone and DataLost.code in said:
            return []
        await asyncio.sleep(_LOOK_S)
    return [f"it cannot be started again ({state}): {said}"]


def _undone_without_volume(world: SimWorld, blanket: Id) -> bool:
    """Whether its L0 put back a state of before the volume was there: then nothing can be started from."""
    undone = world.blankets[blanket]
    return undone.rolled_back and not world.controller.current_copies() & set(undone.files)


def _name(world: SimWorld, blanket: Id | None) -> str:
    return "nobody" if blanket is None else world.blankets[blanket].name
