"""The part of a plan that takes away: what is there and not in the file, if it is to be pruned.

Never done without being asked for, and never so that data which the file still wants would be lost with it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from supercloud.cli.declared.draft import Draft, key, named
from supercloud.cli.declared.steps import Act, Key, Kind
from supercloud.model.names import Name
from supercloud.model.states import InstanceState
from supercloud.model.trust import THINGS
from supercloud.services.views import WantedCloud

#: What has to be stopped before it can be removed.
_LIVE = frozenset({InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.MIGRATING})


class Removal:
    """Asked for in the middle of a plan: instances before anything is made, the rest after everything is."""

    def __init__(self, draft: Draft, wanted: WantedCloud, now: WantedCloud, *, prune: bool) -> None:
        self._draft = draft
        self._there = draft.there
        self._wanted = wanted
        self._now = now
        self.prunes = prune
        self._instances = _gone(now.instances, wanted.instances)
        self._volumes = _gone(now.volumes, wanted.volumes)
        self._networks = _gone(now.networks, wanted.networks)
        self._blankets = _gone(now.blankets, wanted.blankets)

    # ------------------------------------------------------------ what others wait for

    def overlapping(self, cidr: ipaddress.IPv4Network) -> Iterable[Key]:
        """Removals of networks that are in the way of a new one."""
        there = named(self._now.networks)
        return [
            key(Act.REMOVE, Kind.NETWORK, name)
            for name in self._networks
            if ipaddress.IPv4Network(there[name].cidr).overlaps(cidr)
        ]

    def making_room(self) -> Iterable[Key]:
        """Removals of instances: a new one may need their ports, their memory, or their part of a quota."""
        return [key(Act.REMOVE, Kind.INSTANCE, name) for name in self._instances]

    def freed(self, volume: Name) -> list[Key]:
        """The removal of the instance that has it, if that is to be removed."""
        owner = self._owner(volume)
        pruned = self.prunes and owner in self._instances
        return [key(Act.REMOVE, Kind.INSTANCE, owner)] if pruned and owner else []

    def blanket_keys(self) -> Iterable[Key]:
        """Nothing is placed in a blanket that is about to go."""
        return [key(Act.REMOVE, Kind.BLANKET, name) for name in self._blankets]

    def detach(self, volume: Name, owner: Name) -> Key:
        call = self._draft.post(Kind.VOLUME, volume, "detach")
        return self._draft.step(Act.DETACH, Kind.VOLUME, volume, f"from {owner}", call, instances=[owner])

    # ------------------------------------------------------------ taking away

    def instances(self) -> None:
        for name in self._instances:
            if not self.prunes:
                self._draft.leave(Kind.INSTANCE, name)
                continue
            if self._there.instances[name].state in _LIVE:
                call = self._draft.post(Kind.INSTANCE, name, "stop")
                self._draft.step(Act.STOP, Kind.INSTANCE, name, "it runs", call, instances=[name])
            self._remove(Kind.INSTANCE, name, "with what it boots from", instances=[name])

    def rest(self) -> None:
        self._disks()
        for name in self._volumes:
            self._volume(name)
        for name in self._networks:
            self._network(name)
        for name in self._blankets:
            self._blanket(name)

    def _disks(self) -> None:
        """Of instances that stay, what they have and the file does not give them."""
        listed = {volume for volumes in self._wanted.attached.values() for volume in volumes}
        for owner, volumes in self._now.attached.items():
            for volume in volumes if owner not in self._instances else ():
                if volume in listed:
                    continue
                if self.prunes:
                    self.detach(volume, owner)
                elif volume not in self._volumes:
                    self._draft.leave(Kind.VOLUME, volume, f"at {owner}")

    def _volume(self, name: Name) -> None:
        if not self.prunes:
            self._draft.leave(Kind.VOLUME, name)
            return
        needs = {*self.freed(name), key(Act.DETACH, Kind.VOLUME, name)}
        self._remove(Kind.VOLUME, name, "and its keys, for good", needs=needs)

    def _network(self, name: Name) -> None:
        if not self.prunes:
            self._draft.leave(Kind.NETWORK, name)
            return
        there = named(self._now.instances)
        users = [one for one in self._instances if name in there[one].networks]
        needs = {*(key(Act.REMOVE, Kind.INSTANCE, one) for one in users), *self._relations("network", name)}
        self._remove(Kind.NETWORK, name, named(self._now.networks)[name].cidr, needs=needs)

    def _blanket(self, name: Name) -> None:
        if not self.prunes:
            self._draft.leave(Kind.BLANKET, name)
            return
        inside = [one.name for one in self._now.instances if one.on == name]
        staying = [
            one
            for one in inside
            if one not in self._instances and not self._draft.has(Act.MIGRATE, Kind.INSTANCE, one)
        ]
        if staying:
            why = f"blanket {name} is not in the file, and this instance is in it"
            hint = "say where it goes with `blanket`, and start it if it is stopped"
            for one in staying:
                self._draft.refuse(Kind.INSTANCE, one, "blanket", why, hint)
            return
        kept = [one for one in self._data_in(name) if one not in self._volumes and not self._moves(one)]
        if kept:
            why = f"blanket {name} is not in the file, and this volume's data is in it"
            hint = "attach it to an instance and let that move, or keep the blanket"
            for one in kept:
                self._draft.refuse(Kind.VOLUME, one, None, why, hint)
            return
        if guests := self._there.guests.get(name):
            why = f"it is not in the file, and other clouds' blankets are in it: {', '.join(guests)}"
            hint = "they are removed by who has them, or by you: supercloud blanket rm ID --force"
            self._draft.refuse(Kind.BLANKET, name, None, why, hint)
            return
        nested = [one.name for one in self._now.blankets if one.parent == name]
        needs = {
            *self._relations("blanket", name),
            *(key(Act.REMOVE, Kind.BLANKET, one) for one in nested),
            *(key(Act.REMOVE, Kind.VOLUME, one) for one in self._data_in(name)),
            *(key(act, Kind.INSTANCE, one) for one in inside for act in (Act.MIGRATE, Act.REMOVE)),
        }
        self._remove(Kind.BLANKET, name, "with its disk", needs=needs)

    def _relations(self, thing: str, name: Name) -> Iterable[Key]:
        """Trust about it, which would go with it: what is not there any more cannot be revoked."""
        return [
            key(Act.REMOVE, Kind.TRUST, one.id)
            for one in self._there.trust
            if THINGS[one.kind] == thing and one.thing == name
        ]

    def _remove(
        self,
        kind: Kind,
        name: Name,
        what: str,
        *,
        needs: Iterable[Key] = (),
        instances: Iterable[Name] = (),
    ) -> None:
        call = self._draft.delete(kind, name)
        self._draft.step(Act.REMOVE, kind, name, what, call, needs=needs, instances=instances)

    # ------------------------------------------------------------ where data is

    def _owner(self, volume: Name) -> Name | None:
        found = self._there.volumes.get(volume)
        return found.instance if found else None

    def _data_in(self, blanket: Name) -> list[Name]:
        """Volumes, but those that instances boot from."""
        there = named(self._now.volumes)
        return [name for name, one in there.items() if blanket in {self._there.volumes[name].blanket, one.on}]

    def _moves(self, volume: Name) -> bool:
        """Whether it leaves with the instance that has it, and keeps it."""
        owner = self._owner(volume)
        return (
            owner is not None
            and volume in self._wanted.attached.get(owner, ())
            and self._draft.has(Act.MIGRATE, Kind.INSTANCE, owner)
        )


def _gone(now: Iterable[object], wanted: Iterable[object]) -> list[Name]:
    kept = {one.name for one in wanted}  # type: ignore[attr-defined]
    return [one.name for one in now if one.name not in kept]  # type: ignore[attr-defined]
