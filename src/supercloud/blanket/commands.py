"""Programs of the blanket's image that do one thing and end."""

from __future__ import annotations

import asyncio

from supercloud.model.errors import Failed

_LONGEST_S = 120.0


async def run(*argv: str) -> None:
    """Raises: Failed, with the last line of what it said."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_LONGEST_S):
            said, _ = await child.communicate()
    except TimeoutError as error:
        raise Failed(f"{argv[0]} did not end in {_LONGEST_S:.0f} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        raise Failed(f"{argv[0]}: {lines[-1] if lines else f'status {child.returncode}'}")
