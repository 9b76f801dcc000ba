"""Counts copies from what QEMUs did, and from what the other blankets would accept of them; trusts no table.

Allowed, as the threat model says: a machine that its L0 stopped executes until its keeper has compared its
clocks again; what libvirt resumes by itself executes until the keeper hears of it. Neither is ever accepted.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supercloud.blanket.overlay.plan import Filter, link_device, plan
from supercloud.keeper.egress import tap_of
from supercloud.keeper.watchdog import TIMEOUT_S
from supercloud.model.names import Id
from supercloud.simulator.qemu import Qemu, Shows

if TYPE_CHECKING:
    from supercloud.simulator.blanket import SimBlanket
    from supercloud.simulator.world import SimWorld

#: One comparison of clocks (each second), and the pause itself; inside another blanket one more before it.
STOP_SEEN_S = 1.5
LOOK_AROUND_S = 1.0
#: From libvirt's resume to the keeper's pause.
RESUME_SEEN_S = 0.5


@dataclass(frozen=True)
class Violation:
    at: float
    what: str

    def __str__(self) -> str:
        return f"{self.at:.3f}: {self.what}"


class Observer:
    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self.violations: list[Violation] = []
        self.most_executing = 0
        self._excused: dict[tuple[Id, Id], tuple[float, str]] = {}  # until when, and why
        self._number = 0
        #: What guests were told is on their disk, and must never be lost.
        self.promised: defaultdict[Id, set[int]] = defaultdict(set)
        self._filters: dict[Id, tuple[object, Filter]] = {}

    @property
    def _now(self) -> float:
        return self._world.loop.true_s

    # ------------------------------------------------------------ told by machines

    def saw(self, blanket: SimBlanket, qemu: Qemu, alive: bool) -> None:
        if alive and qemu.shows is Shows.RUNNING and not self._is_excused(blanket, qemu.instance):
            self._check_right(blanket, qemu.instance)
        self.check(qemu.instance)

    def booted(self, blanket: SimBlanket, qemu: Qemu) -> None:
        """Its port was made before, so that what is in force about it has to be there by now."""
        kept = self._world.controller.guard(qemu.instance)
        if self._world.guarded and not kept <= blanket.guarded.get(qemu.instance, set()):
            self.violate(f"{blanket.name} boots {qemu.instance[:8]} without what is in force about it")

    def wrote(self, blanket: SimBlanket, qemu: Qemu) -> int:
        """A guest synced a write: its number. Those of a copy that has to be paused count for nobody."""
        self._number += 1
        if not self._is_excused(blanket, qemu.instance) and not qemu.undone:
            self.promised[qemu.instance].add(self._number)
        unseen = self._world.controller.unsure
        if qemu.undone and not unseen and not self._is_excused(blanket, qemu.instance):
            self.violate(f"{blanket.name} goes on from an older state of {qemu.instance[:8]}")
        self.check(qemu.instance)
        return self._number

    def excuse(self, blanket: Id, instance: Id, why: str) -> None:
        owner = self._world.blankets[blanket]
        seen_s = RESUME_SEEN_S if owner.keeper_process.runs else TIMEOUT_S + 1
        self._excused[blanket, instance] = (self._now + seen_s, why)

    def stood_still(self, blanket: SimBlanket) -> None:
        for instance in blanket.processes.present:
            self.check(instance)

    def went_on(self, blanket: SimBlanket) -> None:
        until = self._now + STOP_SEEN_S + (0.0 if blanket.around is None else LOOK_AROUND_S)
        for instance in self._world.instances:
            self._excused[blanket.id, instance] = (until, "its machine stood still")
            self.check(instance)

    def undid(self, blanket: SimBlanket) -> None:
        """What was synced there since the snapshot is the L0's to answer for; all of it, where the only
        copy that counts was there."""
        for instance in self._world.instances:
            if self._world.controller.holder(instance) == blanket.id:
                self.promised[instance].clear()
        left = {
            number
            for other in self._world.blankets.values()
            for file in other.files.values()
            for number in file.synced
        }
        for instance, promised in self.promised.items():
            self.promised[instance] = promised & left

    # ------------------------------------------------------------ counting

    def executing(self, instance: Id) -> list[SimBlanket]:
        found = []
        for blanket in self._world.blankets.values():
            qemu = blanket.processes.present.get(instance)
            if (
                qemu is not None
                and qemu.shows is Shows.RUNNING
                and blanket.up
                and not blanket.machine.stopped
            ):
                found.append(blanket)
        return found

    def accepted(self, instance: Id) -> list[SimBlanket]:
        """Those whose frames leave their blanket and are taken as the instance's by any other."""
        return [one for one in self.executing(instance) if self._leaves(one, instance) and self._taken(one)]

    def _leaves(self, blanket: SimBlanket, instance: Id) -> bool:
        permitted = blanket.permits.get(instance, 0.0) > blanket.machine.now()
        taps = {element[0] for element in self._filter(blanket).own}
        return permitted and tap_of(instance) in taps

    def _taken(self, blanket: SimBlanket) -> bool:
        return any(
            self.takes(other, blanket)
            for other in self._world.blankets.values()
            if other is not blanket and other.up
        )

    def takes(self, other: SimBlanket, blanket: SimBlanket) -> bool:
        """Whether `other` accepts the instance's MAC and IP from `blanket`, and what it sends at all."""
        mesh = other.overlay._known.mesh
        peers = {peer.blanket: peer for peer in mesh.peers}
        peer = peers.get(blanket.id)
        if peer is None or self._world.key(blanket) not in peer.keys:
            return False
        device = link_device(peer.vxlan_port, self._world.network_id)
        return (device, self._world.mac, self._world.ip) in self._filter(other).remote

    def _filter(self, blanket: SimBlanket) -> Filter:
        known = blanket.overlay._known
        cached = self._filters.get(blanket.id)
        if cached is None or cached[0] is not known:
            cached = self._filters[blanket.id] = (known, plan(known, blanket=blanket.id).filter)
        return cached[1]

    def check(self, instance: Id) -> None:
        executing = self.executing(instance)
        if len(executing) < 2:
            self.most_executing = max(self.most_executing, len(executing))
            return
        names = " and ".join(one.name for one in executing)
        unexcused = [one for one in executing if not self._is_excused(one, instance)]
        if len(unexcused) > 1:
            self.violate(f"{instance[:8]} executes in {names}")
        if len(self.accepted(instance)) > 1:
            self.violate(f"{instance[:8]} is accepted from {names}")

    def _is_excused(self, blanket: SimBlanket, instance: Id) -> bool:
        until, _ = self._excused.get((blanket.id, instance), (0.0, ""))
        return self._now <= until

    def _check_right(self, blanket: SimBlanket, instance: Id) -> None:
        """Beyond counting: nothing begins to execute before the right to is committed."""
        holder = self._world.controller.holder(instance)
        if holder != blanket.id and not self._world.controller.restored:
            self.violate(f"{blanket.name} executes {instance[:8]} without the right to")

    def violate(self, what: str) -> None:
        if not self.violations or self.violations[-1].what != what:
            self.violations.append(Violation(self._now, what))
            self._world.trace.say(f"VIOLATION: {what}")
