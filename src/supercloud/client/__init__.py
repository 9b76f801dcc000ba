"""The client of both APIs: small and quick to import. The command line is made of it.

`client.aio` is the same for asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supercloud.client.place import NORTHBOUND, SOUTHBOUND, Access, Endpoint, Place

if TYPE_CHECKING:
    from supercloud.client.http import Client
else:

    def __getattr__(name: str) -> object:
        """The client itself when it is asked for: a command that explains itself needs no HTTP and no TLS."""
        if name != "Client":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from supercloud.client.http import Client

        return Client


__all__ = ["NORTHBOUND", "SOUTHBOUND", "Access", "Client", "Endpoint", "Place"]
