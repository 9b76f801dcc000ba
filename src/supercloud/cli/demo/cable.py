"""Pulls and plugs a blanket's cable from outside, as a failing domain would."""

from __future__ import annotations

from pathlib import Path

from supercloud.images.blanket import BuiltImages
from supercloud.model.errors import Refused
from supercloud.model.names import Id
from supercloud.platforms import open_platform
from supercloud.ports.platform import LinkPlatform


async def set_link(state: Path, machine: Id, *, up: bool) -> None:
    """
    Raises:
        Refused: the platform cannot.
    """
    platform = open_platform("qemu", state, BuiltImages())
    if not isinstance(platform, LinkPlatform):
        raise Refused("this platform cannot cut a machine off")
    await platform.link(machine, up=up)
