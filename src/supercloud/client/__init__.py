"""The client of both APIs: small and quick to import. The command line is made of it.

`client.aio` is the same for asyncio.
"""

from supercloud.client.http import NORTHBOUND, SOUTHBOUND, Client
from supercloud.client.place import Access, Endpoint, Place

__all__ = ["NORTHBOUND", "SOUTHBOUND", "Access", "Client", "Endpoint", "Place"]
