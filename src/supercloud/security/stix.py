"""Indicators that others share, as STIX 2.1: what of a bundle is used here, and of all else why not. Pure.

Used are indicators whose pattern names IPv4 addresses and nothing else. A bundle is a stranger's: it is
bounded before it is looked at, and what is in it is text and addresses, never something to follow.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supercloud.model.bounded import Bounds
from supercloud.model.errors import InvalidInput
from supercloud.model.names import Ipv4
from supercloud.model.ocsf import one_line

#: Of a bundle as text; objects in it; addresses of one pattern.
BYTES, OBJECTS, ADDRESSES = 512 << 10, 1000, 64
#: Addresses of one bundle that are used.
MOST = 500
_BOUNDS = Bounds(bytes_=BYTES, depth=16, values=100_000)
_PATTERN_CHARS = 8192
#: STIX patterning 9.4, as far as it is about addresses: [a:v = '…' OR a:v = '…'] OR […].
_TOKEN = re.compile(r"\s*(?:(\[)|(\])|(OR)\b|ipv4-addr:value\s{0,8}=\s{0,8}'([0-9./]{7,18})')")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Indicator:
    """An address that somebody shared. `id`: of its STIX object."""

    id: str
    name: str
    address: Ipv4


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    id: str
    why: str


class _Object(BaseModel):
    """Of an indicator, what we look at."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    id: Annotated[str, Field(pattern=r"^indicator--[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    spec_version: Literal["2.1"]
    pattern: Annotated[str, Field(min_length=1, max_length=_PATTERN_CHARS)]
    pattern_type: Annotated[str, Field(max_length=64)]
    valid_from: str
    valid_until: str | None = None
    name: Annotated[str, Field(max_length=1024)] = ""
    revoked: bool = False


class _Refused(Exception):
    """Why an object is not used."""


def read(text: str, *, now: float) -> tuple[list[Indicator], list[Unused]]:
    """`now`: seconds since the epoch; what is not valid then is not used.

    Raises:
        InvalidInput: it is no bundle of STIX, or more than one may be.
    """
    if len(text) > BYTES:
        raise InvalidInput(f"a bundle has at most {BYTES >> 10} KiB")
    try:
        bundle = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the bundle is no JSON") from error
    _BOUNDS.check(bundle, "the bundle")
    if not isinstance(bundle, dict) or bundle.get("type") != "bundle":
        raise InvalidInput("that is no STIX bundle", hint="its type is bundle, and its objects are in a list")
    objects = bundle.get("objects", [])
    if not isinstance(objects, list) or len(objects) > OBJECTS:
        raise InvalidInput(f"a bundle's objects are a list of at most {OBJECTS}")
    return _sorted_out(objects, now)


def _sorted_out(objects: list[Any], now: float) -> tuple[list[Indicator], list[Unused]]:
    found, unused = dict[Ipv4, Indicator](), list[Unused]()
    for one in objects:
        name = _id_of(one)
        try:
            for indicator in _indicators(one, now):
                if len(found) >= MOST and indicator.address not in found:
                    raise _Refused(f"{MOST} addresses are all that one bundle can bring")
                found.setdefault(indicator.address, indicator)
        except _Refused as refused:
            unused.append(Unused(id=name, why=str(refused)))
    return list(found.values()), unused


def _id_of(one: Any) -> str:
    said = one.get("id") if isinstance(one, dict) else None
    return one_line(said)[:128] if isinstance(said, str) else "?"


def _indicators(one: Any, now: float) -> Iterator[Indicator]:
    if not isinstance(one, dict) or one.get("type") != "indicator":
        kind = one.get("type") if isinstance(one, dict) else None
        raise _Refused(
            f"{one_line(kind)[:64]} is not looked at" if isinstance(kind, str) else "it has no type"
        )
    try:
        said = _Object.model_validate(one)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _Refused(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    if said.revoked:
        raise _Refused("it is revoked")
    if said.pattern_type != "stix":
        raise _Refused(f"its pattern is of type {one_line(said.pattern_type)}")
    if _moment(said.valid_from) > now:
        raise _Refused("it is not valid yet")
    if said.valid_until is not None and _moment(said.valid_until) <= now:
        raise _Refused("it is valid no more")
    name = one_line(said.name)[:256] or said.id
    for address in _addresses(said.pattern):
        yield Indicator(id=said.id, name=name, address=address)


def _moment(text: str) -> float:
    if not _MOMENT.fullmatch(text):
        raise _Refused(f"{one_line(text)[:40]!r} is no time")
    try:
        return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise _Refused(f"{text[:40]!r} is no time") from error


def _addresses(pattern: str) -> list[Ipv4]:
    """Each token is matched where the one before it ended, so that this takes as long as the text is."""
    at, inside, wants = 0, False, True
    found = list[Ipv4]()
    while at < len(pattern) and pattern[at:].strip():
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise _Refused("its pattern is about more than IPv4 addresses")
        at = token.end()
        opens, closes, either, address = token.groups()
        if opens and not inside and wants:
            inside = True
        elif closes and inside and not wants:
            inside = False
        elif either and not wants:
            wants = True
        elif address and inside and wants:
            found.append(_address(address))
            wants = False
        else:
            raise _Refused("its pattern cannot be read")
        if len(found) > ADDRESSES:
            raise _Refused(f"its pattern has more than {ADDRESSES} addresses")
    if inside or wants:
        raise _Refused("its pattern cannot be read")
    return found


def _address(text: str) -> Ipv4:
    try:
        one = ipaddress.IPv4Address(text.removesuffix("/32"))
    except ValueError as error:
        raise _Refused(f"{text} is not one address") from error
    if (
        one.is_multicast
        or one.is_loopback
        or one.is_unspecified
        or one.is_link_local
        or int(one) == 2**32 - 1
    ):
        raise _Refused(f"{one} is nobody's address")
    return str(one)
