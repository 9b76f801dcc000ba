"""The client of the northbound API: small and quick to import. The command line is made of it.

`client.aio` is the same for asyncio.
"""

from supercloud.client.http import Client
from supercloud.client.place import Access, Endpoint, Place

__all__ = ["Access", "Client", "Endpoint", "Place"]
