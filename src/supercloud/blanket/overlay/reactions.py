"""Reactions at an instance's ports, as elements of sets that the filter looks at: ports.actuator.Actuator.

Each element carries its command's id and ends by the kernel's own clock, so that what was done is seen by
whoever comes after a crash, and ends in time if nobody comes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from supercloud.blanket import nft
from supercloud.blanket.overlay.filter import DENIED, ISOLATED, LIMITED, TABLE
from supercloud.model.errors import Failed, NotFound
from supercloud.model.names import Id
from supercloud.model.reactions import LONGEST_S, Command, Deed

_T = {"family": "bridge", "table": TABLE}
_SETS = {Deed.CONTAIN: ISOLATED, Deed.DENY: DENIED, Deed.LIMIT: LIMITED}
#: An element without an end would outlive whoever knows of it.
_USUAL_S = 3600
#: How nft says that there is no such element.
_GONE = "No such file or directory"
_COMMENT = re.compile(r'comment "([0-9a-f-]{36})"')


class PortReactions:
    """`ports` names an instance's devices; `now`: seconds since the epoch, as `Command.until` is."""

    takes = frozenset(_SETS)

    def __init__(self, ports: Callable[[Id], Sequence[str]], *, now: Callable[[], float] = time.time) -> None:
        self._ports = ports
        self._now = now

    async def do(self, command: Command) -> None:
        """See the port: all of its ports or none, in one transaction."""
        keys = self._keys(command)
        seconds = _USUAL_S if command.until is None else int(command.until - self._now())
        if seconds < 1:
            raise Failed("its time is over")
        try:
            await nft.run({"nftables": _added(command, keys, min(seconds, int(LONGEST_S)))})
        except Failed as error:
            if await self.look(command):
                return  # it is there by an earlier time of the same command
            raise Failed(f"{command.deed}: {error.message}") from error

    async def look(self, command: Command) -> bool:
        try:
            keys = self._keys(command)
        except NotFound:
            return False
        return all([await _by(command.deed, key) == command.id for key in keys])

    async def undo(self, command: Command) -> None:
        """What carries another command's id stays."""
        try:
            keys = self._keys(command)
        except NotFound:
            return  # its ports are gone, and their elements end by themselves
        own = [key for key in keys if await _by(command.deed, key) == command.id]
        if own:
            await nft.run({"nftables": _removed(command, own)})

    def _keys(self, command: Command) -> list[str]:
        """
        Raises:
            NotFound: the instance has no port here.
        """
        if command.deed is Deed.DENY:
            if command.net is None:
                raise Failed("it names no address")
            return [command.net]
        found = list(self._ports(command.about.id))
        if not found:
            raise NotFound(f"instance {command.about.id} has no port here")
        return found


def _added(command: Command, keys: Sequence[str], seconds: int) -> list[dict[str, Any]]:
    """`create` refuses what is there already, so that nothing is done or prolonged twice."""
    elements: list[Any] = [{"elem": {"val": key, "timeout": seconds, "comment": command.id}} for key in keys]
    before: list[dict[str, Any]] = []
    if command.deed is Deed.LIMIT:
        before = [{"add": {"limit": _limit(key, command.kbytes or 1)}} for key in keys]
        elements = [
            [one, _limit(key, command.kbytes or 1)["name"]] for one, key in zip(elements, keys, strict=True)
        ]
    where = {**_T, "name": _SETS[command.deed], "elem": elements}
    return [*before, {"create": {"element": where}}]


def _removed(command: Command, keys: Sequence[str]) -> list[dict[str, Any]]:
    elements: list[Any] = list(keys)
    after: list[dict[str, Any]] = []
    if command.deed is Deed.LIMIT:
        names = [_limit(key, command.kbytes or 1)["name"] for key in keys]
        elements = [[key, name] for key, name in zip(keys, names, strict=True)]
        after = [{"delete": {"limit": {**_T, "name": name}}} for name in names]
    where = {**_T, "name": _SETS[command.deed], "elem": elements}
    return [{"delete": {"element": where}}, *after]


def _limit(device: str, kbytes: int) -> dict[str, Any]:
    """A counter of bytes for one port at one rate."""
    rate = {"rate": kbytes, "rate_unit": "kbytes", "per": "second", "inv": True}
    return {**_T, "name": f"{device}-{kbytes}", **rate}


async def _by(deed: Deed, key: str) -> Id | None:
    """The command that one element is by; None: it is not there, or has ended."""
    try:
        answer = await nft.get(_T["family"], TABLE, _SETS[deed], key)
    except Failed as error:
        if _GONE in error.message:
            return None
        raise
    found = _COMMENT.search(answer)
    return None if found is None else found[1]
