"""An instance's traffic leaves only while its right lasts: set elements that the kernel itself ends.

The overlay driver makes the table, the set and the rule; the keeper alone puts elements in, so that it needs
nobody else's process to be alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supercloud.blanket import nft
from supercloud.model.names import Id
from supercloud.ports.agent import NICS

FAMILY = "bridge"
TABLE = "supercloud"
SET = "permitted"


def tap_of(instance: Id, index: int = 0) -> str:
    """The name of an instance's port in its blanket; at most 15 characters, as the kernel allows."""
    return f"t{instance.replace('-', '')[:12]}{index or ''}"


def transaction(seconds: Mapping[Id, float]) -> dict[str, Any]:
    """What to tell nft: each element anew, since an existing one keeps its old timeout; 0 only removes it.

    Ports that an instance has not are permitted, too, which permits nothing. Adding an element before
    deleting it makes the deletion valid whether it was there or not.
    """
    commands: list[dict[str, Any]] = []
    for instance, left_s in seconds.items():
        for tap in (tap_of(instance, index) for index in range(NICS)):
            commands += [_command("add", tap), _command("delete", tap)]
            if left_s >= 1:
                commands.append(_command("add", {"elem": {"val": tap, "timeout": int(left_s)}}))
    return {"nftables": commands}


def _command(verb: str, element: object) -> dict[str, Any]:
    return {verb: {"element": {"family": FAMILY, "table": TABLE, "name": SET, "elem": [element]}}}


async def permit(seconds: Mapping[Id, float]) -> None:
    """Let the traffic of these instances out for so many whole seconds from now, all or none.

    Raises:
        Failed: with nft's own words.
    """
    await nft.run(transaction(seconds))
