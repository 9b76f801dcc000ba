"""What the sagas need of the control plane. Each method may be repeated without harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from supercloud.model.names import Digest, Id, Ipv4, SizeBytes
from supercloud.model.states import InstanceState
from supercloud.ports.agent import Agent, InstanceSpec, SealedKey, UserData
from supercloud.ports.keystore import KeyStore
from supercloud.ports.loop import Guard
from supercloud.ports.overlay import MeshReport
from supercloud.ports.rights import RightsStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """A volume of an instance, and the image that it is over."""

    volume: Id
    size_bytes: SizeBytes
    base: Digest | None
    image_bytes: SizeBytes  # of the encrypted base image file; 0 without one


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    spec: InstanceSpec
    state: InstanceState
    blanket: Id | None  # where it is, or was last
    disks: tuple[DiskFacts, ...]
    user_data: UserData | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFacts:
    """`made`: its blanket has made it. Until then it may be made; from then on it is there, or lost."""

    volume: Id
    copy: Id
    blanket: Id
    made: bool = False


class World(Protocol):
    """Raises, where an instance, volume or blanket is named: NotFound."""

    @property
    def rights(self) -> RightsStore: ...
    @property
    def keys(self) -> KeyStore: ...

    def agent(self, blanket: Id) -> Agent:
        """Its calls raise Unavailable while the blanket is not connected."""
        ...

    async def instance(self, instance: Id) -> InstanceFacts: ...

    async def set_state(
        self,
        instance: Id,
        state: InstanceState,
        *,
        blanket: Id | None = None,
        reason: str = "",
        seen: InstanceState | None = None,
    ) -> None:
        """`seen`: what it was when this was concluded.

        Raises:
            Conflict: the life cycle forbids it, or it is not as it was seen any more.
        """
        ...

    async def mesh_address(self, blanket: Id) -> Ipv4: ...

    async def locate(self, instance: Id) -> None:
        """Tell every blanket of its cloud who holds the instance's right now."""
        ...

    async def guard(self, instance: Id, *, operation: Id, source: Id, target: Id) -> Guard:
        """Its security state at `source`, as `target` is to take it over. A source that does not answer adds
        nothing to what horizontal loops ordered there."""
        ...

    async def kept_guard(self, instance: Id, *, operation: Id, target: Id) -> Guard:
        """Its security state as `target` is to take it over when it starts there: what the blanket that had
        it told last, and what horizontal loops order about it."""
        ...

    async def guard_moved(self, instance: Id) -> None:
        """What horizontal loops ordered about it is ordered where it is to be done now."""
        ...

    async def take_over(self, guard: Guard, *, target: Id) -> None:
        """On return it is in force there.

        Raises:
            Refused, Failed, Unavailable.
        """
        ...

    async def cancel_asked(self, operation: Id) -> bool:
        """Whether somebody wants the operation given up, where it still can be."""
        ...

    # copies of volumes

    async def first_copy(self, volume: Id, *, blanket: Id) -> CopyFacts:
        """The volume's current copy; one at `blanket` is recorded if there is none yet.

        Raises:
            Conflict: the volume's data is in another blanket.
            DataLost: it had data, and nobody has them any more.
        """
        ...

    async def reserve_copy(self, operation: Id, *, volume: Id, blanket: Id) -> CopyFacts:
        """The operation's own copy at `blanket`, which is not the volume yet."""
        ...

    async def note_made(self, copy: Id) -> None:
        """Its blanket has made it: nothing may be made in its place any more."""
        ...

    async def promote_copies(self, operation: Id) -> None:
        """The operation's copies become the volumes; the former ones become its leftovers."""
        ...

    async def leftovers(self, operation: Id) -> tuple[CopyFacts, ...]:
        """The operation's copies that are not the volume (any more)."""
        ...

    async def drop_copy(self, copy: Id) -> None:
        """Forget it; its data and its key are gone by now."""
        ...

    async def image_key(self, *, cloud: Id, digest: Digest, blanket: Id) -> SealedKey:
        """
        Raises:
            Refused: the image is another cloud's, and not shared with this one.
            NotFound, Denied: the key store's word.
        """
        ...

    # keys of a cloud's mesh

    async def blankets(self, cloud: Id) -> tuple[Id, ...]:
        """The cloud's blankets that are connected, or were a moment ago."""
        ...

    async def keys_reported(self, blanket: Id, report: MeshReport) -> None:
        """Have its peers accept the keys that it reports, from the next `spread` on."""
        ...

    async def spread(self, cloud: Id) -> tuple[Id, ...]:
        """Apply the cloud's meshes; those of `blankets` that did not take theirs."""
        ...
