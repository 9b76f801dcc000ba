"""nft, asked in its JSON: the only way of the agent and the keeper to the packet filter of their kernel."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from supercloud.model.errors import Failed

_DEADLINE_S = 10.0


async def run(commands: dict[str, Any], *, deadline_s: float = _DEADLINE_S) -> None:
    """One transaction: all of it or nothing.

    `commands` go by a file in memory. A set's elements may be longer than an argument may be, and of standard
    input nft opens the name again, which a socket (asyncio's pipe) does not allow.

    Raises:
        Failed: with nft's own words.
    """
    with os.fdopen(os.memfd_create("nft"), "w") as file:
        json.dump(commands, file)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            "nft",
            "-j",
            "-f",
            "/proc/self/fd/0",
            stdin=file,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        async with asyncio.timeout(deadline_s):
            _, said = await process.communicate()
    except TimeoutError as error:
        process.kill()
        raise Failed("nft did not answer") from error
    if process.returncode:
        raise Failed(f"nft: {said.decode(errors='replace').strip()[:300]}")
