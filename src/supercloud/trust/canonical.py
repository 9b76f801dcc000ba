"""The one encoding of what is signed, authenticated or bound: no two lists of fields have the same bytes."""

from __future__ import annotations

_COUNT_BYTES = 4


def canonical(purpose: str, *fields: str | bytes | int) -> bytes:
    """`purpose` (which separates the uses from each other), then every field, each after its length.

    Text is UTF-8 and a number is its decimal digits. The encoding is fixed: a change of what is in it, or of
    its order, needs another `purpose`.
    """
    parts = [purpose, *fields]
    encoded = bytearray(len(parts).to_bytes(_COUNT_BYTES, "big"))
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        encoded += len(data).to_bytes(_COUNT_BYTES, "big") + data
    return bytes(encoded)
