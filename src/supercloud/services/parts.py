"""What the services are made of. The composition root fills this in; nothing else picks an implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from supercloud.model.names import Digest, Id
from supercloud.ports.keystore import KeyStore
from supercloud.ports.machines import NestedDriver
from supercloud.ports.platform import Platform

if TYPE_CHECKING:
    from supercloud.services.agents import Agents
    from supercloud.services.blanket_files import OwnBlanketFiles
    from supercloud.services.directory import Directory
    from supercloud.services.feed import Feed
    from supercloud.services.horizontal import Horizontal
    from supercloud.services.mesh import Meshes
    from supercloud.services.operations import Operations
    from supercloud.services.publish import Publisher
    from supercloud.services.spreading import Spreading
    from supercloud.services.store.engine import Store
    from supercloud.services.store.rights import SqlRights
    from supercloud.services.streams import Streams
    from supercloud.services.upgrades import OwnBundle

#: (provider's id, kind, options) -> its driver.
#: Raises: InvalidInput for an unknown kind or options that the driver does not take.
PlatformDrivers = Callable[[Id, str, dict[str, str]], Platform]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of one control plane."""

    images: Path  # where encrypted images are kept, by digest
    agents_port: int  # TCP port that blankets dial
    #: The blanket image that new blankets boot; asked each time, so that an upgrade needs no restart.
    blanket_image: Callable[[], Digest]
    database: str  # "sqlite" or "postgresql"
    cpu_model: str = "Westmere"  # a named baseline that every host of the last decade, and TCG, can give
    #: The code for agents that are upgraded. None: there is none to give.
    bundle: OwnBundle | None = None
    #: The files of blanket images, for blankets inside blankets. None: there are none to give.
    blanket_files: OwnBlanketFiles | None = None
    #: A blanket under emulation on a busy machine takes minutes, so that this is generous.
    join_s: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    settings: Settings
    store: Store
    directory: Directory
    feed: Feed
    rights: SqlRights
    keys: KeyStore
    operations: Operations
    agents: Agents
    streams: Streams
    meshes: Meshes
    policies: Spreading
    horizontal: Horizontal
    publisher: Publisher
    drivers: PlatformDrivers
    nested: NestedDriver
