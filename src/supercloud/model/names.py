"""Names, identifiers and sizes: the scalar vocabulary of every boundary.

Each is an `Annotated` scalar, so that pydantic validates it wherever a value enters the program and
mypy sees a plain `str` or `int` inside.
"""

from __future__ import annotations

import re
import uuid
from typing import Annotated

from supercloud.model import units
from supercloud.model.limits import Limits

MIB, GIB = units.MIB, units.GIB

#: What a user calls a thing: a DNS label (RFC 1123), because instances answer to it in DNS.
_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Name = Annotated[str, Limits(pattern=_NAME, max_length=63)]
#: Free text that any database keeps: without NUL (PostgreSQL) and without lone surrogates (UTF-8).
Text = Annotated[str, Limits(pattern=r"^[^\x00]*$")]
#: What the program calls a thing, in the canonical form of a version 4 UUID.
Id = Annotated[str, Limits(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
#: `sha256:` and 64 hexadecimal digits.
Digest = Annotated[str, Limits(pattern=r"^sha256:[0-9a-f]{64}$")]
#: Lower-case, colon-separated EUI-48.
Mac = Annotated[str, Limits(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
Ipv4 = Annotated[str, Limits(pattern=r"^(\d{1,3}\.){3}\d{1,3}$")]
Cidr = Annotated[str, Limits(pattern=r"^(\d{1,3}\.){3}\d{1,3}/\d{1,2}$")]
Port = Annotated[int, Limits(ge=1, le=65535)]
#: `host:port`, the host a name or an IPv4 address.
Endpoint = Annotated[str, Limits(pattern=r"^[A-Za-z0-9.-]{1,253}:\d{1,5}$")]
#: A WireGuard (X25519) public key in base64.
WireguardKey = Annotated[str, Limits(pattern=r"^[A-Za-z0-9+/]{43}=$")]
#: Of a principal: an Ed25519 public key as Biscuit writes it.
PublicKey = Annotated[str, Limits(pattern=r"^ed25519/[0-9a-f]{64}$")]
#: Grows by one each time the right to run an instance moves to another holder; 0 before the first.
Epoch = Annotated[int, Limits(ge=0, lt=1 << 63)]
#: Grows by one, and may be taken over from who has a later one: less than a number in JSON can be anywhere.
GENERATIONS = 1 << 52
Generation = Annotated[int, Limits(ge=0, lt=GENERATIONS)]
#: An unguessable single-use value, 32 hexadecimal digits (128 bits).
Nonce = Annotated[str, Limits(pattern=r"^[0-9a-f]{32}$")]
SizeBytes = Annotated[int, Limits(ge=0, lt=1 << 50)]
MemoryMib = Annotated[int, Limits(ge=64, le=1 << 20)]
Vcpus = Annotated[int, Limits(ge=1, le=64)]


def is_name(text: str) -> bool:
    return re.fullmatch(_NAME, text) is not None and not text.endswith("\n")


def new_id() -> str:
    """A fresh random identifier."""
    return str(uuid.uuid4())
