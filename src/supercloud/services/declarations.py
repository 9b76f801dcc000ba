"""What a platform declared when it was asked, as its provider's row keeps it."""

from __future__ import annotations

from supercloud.ports.platform import Declaration
from supercloud.services.store.tables import Provider
from supercloud.wire.codec import from_json


def declaration(row: Provider) -> Declaration:
    return from_json(Declaration, row.declaration)
