"""The client of the northbound API: small, synchronous, quick to import; what the command line is made of."""

from supercloud.client.http import Client
from supercloud.client.place import Access, Endpoint, Place

__all__ = ["Access", "Client", "Endpoint", "Place"]
