"""nft, asked in its JSON: the only way of the agent and the keeper to the packet filter of their kernel.

Debian's libnftables in our own process, not the `nft` program: a permit or a location stands in the way of an
instance that resumes, and under emulation starting a program takes a hundred times as long as what it does.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import re
import threading
from typing import Any

from supercloud.model.errors import Failed

_LIBRARY = "libnftables.so.1"
_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, which is what makes it read JSON
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,15}")
_one_at_a_time = threading.Lock()


async def run(commands: dict[str, Any]) -> None:
    """One transaction: all of it or nothing.

    Raises:
        Failed: with nft's own words.
    """
    await asyncio.to_thread(_run, json.dumps(commands).encode())


async def get(family: str, table: str, name: str, element: str) -> str:
    """One element of a set or a map, as nft writes it: its JSON has no command for that, and to list a set
    takes as long as the set is. `element` is a device or an address.

    Raises:
        Failed: with nft's own words; also if it is not there.
    """
    if not _PLAIN.fullmatch(element):
        raise Failed(f"nft: {element[:40]!r} is neither a device nor an address")
    said = f'"{element}"' if element[0].isalpha() else element
    answer = await asyncio.to_thread(_run, f"get element {family} {table} {name} {{ {said} }}".encode())
    return answer.decode(errors="replace")


def _run(commands: bytes) -> bytes:
    with _one_at_a_time:
        library, context = _library()
        refused = library.nft_run_cmd_from_buffer(context, commands)
        said: bytes = library.nft_ctx_get_error_buffer(context)  # and empties it
        answer: bytes = library.nft_ctx_get_output_buffer(context)
    if refused:
        first_line = said.decode(errors="replace").strip().partition("\n")[0]
        raise Failed(f"nft: {first_line[:300]}")
    return answer


@functools.cache
def _library() -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    """The library and a context to keep: making one takes ten times as long as a transaction."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise Failed(f"nft: {error}") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    if not context:
        raise Failed("nft: out of memory")
    library.nft_ctx_buffer_error(context)
    library.nft_ctx_buffer_output(context)
    library.nft_ctx_output_set_flags(context, _JSON)
    return library, context
