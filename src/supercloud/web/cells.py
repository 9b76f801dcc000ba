"""Values as pages show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from supercloud.model.domains import Capacity, Rented
from supercloud.model.names import MIB
from supercloud.model.placement import Placement, Price
from supercloud.model.quota import Amounts, Quota
from supercloud.model.units import format_size
from supercloud.web.grid import href
from supercloud.web.tones import Tone, tone_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`done`: 0..1. `at`: seconds since the epoch, which `text` says for people."""

    text: str
    href: str | None = None
    tone: Tone | None = None
    code: bool = False
    number: bool = False
    done: float | None = None
    at: float | None = None


NOTHING = Cell(text="–")  # noqa: RUF001 - a dash


def text(value: object) -> Cell:
    return NOTHING if value is None or value == "" else Cell(text=str(value))


def code(value: object) -> Cell:
    return NOTHING if value is None or value == "" else Cell(text=str(value), code=True)


def number(value: int) -> Cell:
    return Cell(text=str(value), number=True)


def size(value: int) -> Cell:
    return Cell(text=format_size(value), number=True)


def many(values: Iterable[object]) -> Cell:
    return text(", ".join(str(one) for one in values))


def yes(value: bool) -> Cell:
    return Cell(text="yes" if value else "no")


def toned(said: str, tone: Tone) -> Cell:
    return Cell(text=said, tone=tone)


def state(value: StrEnum) -> Cell:
    return Cell(text=str(value), tone=tone_of(value))


def link(collection: str, name: str | None, *, at: str | None = None, cloud: str | None = None) -> Cell:
    """`at`: its id, where that is known; else `cloud` (its id) tells two of one name apart."""
    return NOTHING if name is None else Cell(text=name, href=href(collection, at or name, cloud))


def said(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def moment(at: float | None) -> Cell:
    return NOTHING if at is None else Cell(text=said(at), at=at)


def seconds(value: float | None) -> Cell:
    return NOTHING if value is None else Cell(text=f"{value:.0f} s", number=True)


def price(value: Price | None) -> Cell:
    if value is None:
        return NOTHING
    return Cell(text=f"{value.vcpu_hour} a vCPU, {value.gib_hour} a GiB, an hour, in {value.currency}")


def counts(result: Mapping[str, Any] | None) -> Cell:
    """Of an operation's result, what is said in a word."""
    return many(f"{key} {value}" for key, value in (result or {}).items() if isinstance(value, str | int))


def placement(value: Placement) -> Cell:
    """What is demanded, and nothing of what is not."""
    demands = [
        f"{one.name.replace('_', ' ')} {_plain(found)}"
        for one in fields(value)
        if (found := getattr(value, one.name)) != one.default
    ]
    return text("; ".join(demands) or "anywhere")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


#: What there is so much of: its word, and the bytes of one; None: they are counted.
_QUANTITIES = {
    "machines": ("Machines", None),
    "vcpus": ("vCPUs", None),
    "memory_mib": ("Memory", MIB),
    "disk_bytes": ("Disk", 1),
    "blankets": ("Blankets", None),
    "domains": ("Domains", None),
}


def shares(how: str, used: Amounts | Rented, most: Quota | Capacity) -> list[tuple[str, Cell]]:
    """So much of so much, for each quantity."""
    found = []
    for one in fields(used):
        word, unit = _QUANTITIES[one.name]
        found.append((f"{word} {how}", _share(getattr(used, one.name), getattr(most, one.name), unit)))
    return found


def _share(used: int, most: int | None, unit: int | None) -> Cell:
    def say(value: int) -> str:
        return str(value) if unit is None else format_size(value * unit)

    done = None if not most else min(1.0, used / most)
    return Cell(text=say(used) + ("" if most is None else f" of {say(most)}"), done=done)
