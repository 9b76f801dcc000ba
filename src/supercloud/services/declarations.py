"""What a platform declared when it was asked, as its provider's row keeps it."""

from __future__ import annotations

from dataclasses import replace

from supercloud.model.placement import Confidentiality
from supercloud.ports.platform import Declaration
from supercloud.services.store.tables import Blanket, Provider
from supercloud.wire.codec import from_json


def declaration(row: Provider) -> Declaration:
    return from_json(Declaration, row.declaration)


def declaration_of(row: Blanket, provider: Provider) -> Declaration:
    """Of what a blanket runs on. Whoever has the blanket around it reads its memory, whatever is below."""
    declared = declaration(provider)
    if row.parent is None:
        return declared
    return replace(declared, confidentiality=Confidentiality.PROCEDURAL)
