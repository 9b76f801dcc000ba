"""Options that several commands have: where an instance may be, what a provider says of itself, quotas.

Of plain text until the API looks at them, so that the command line starts without what the API is made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Names, OptionalName, connect, said
from supercloud.cli.sizes import parse_size
from supercloud.model.errors import InvalidInput
from supercloud.model.units import MIB, format_size

#: An amount and a currency, for those who check it elsewhere, too.
COST_PATTERN = r"^([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([A-Z]{3})$"
_COST = re.compile(COST_PATTERN)
_NONE = "none"

#: As `model.levels` has them, from the lowest to the highest.
Level = Literal["open", "baseline", "hardened", "isolated"]
OptionalLevel = Annotated[
    Level | None,
    Parameter(help="security level; open if not given (supercloud level ls shows what each means)"),
]
Lower = Annotated[bool, Parameter(negative="", help="to a lower level than it has")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlacementOptions:
    """Where an instance may be."""

    domain: Annotated[Names, Parameter(help="only in these domains, by their providers' names")] = None
    not_domain: Annotated[Names, Parameter(help="in none of these domains")] = None
    location: Annotated[list[str] | None, Parameter(help="only in these places; de has de-by in it, too")] = (
        None
    )
    max_cost: Annotated[
        str | None, Parameter(help='only where an hour of it costs at most this, e.g. "0.05 EUR"')
    ] = None
    confidentiality: Annotated[
        Literal["enforced", "procedural"] | None,
        Parameter(help="only on platforms that are this confidential, or more"),
    ] = None
    apart_from: Annotated[
        Names, Parameter(help="instances, or groups of them, that it does not share a blanket with")
    ] = None
    apart_by: Annotated[Literal["blanket", "domain"], Parameter(help="what it does not share with those")] = (
        "blanket"
    )
    group: Annotated[OptionalName, Parameter(help="the group that it belongs to, which moves together")] = (
        None
    )

    def body(self) -> dict[str, Any]:
        """As a request has them."""
        placement = {
            "domains": self.domain or [],
            "not_domains": self.not_domain or [],
            "locations": [one.lower() for one in self.location or []],
            "max_cost": None if self.max_cost is None else cost(self.max_cost),
            "confidentiality": self.confidentiality,
            "apart_from": self.apart_from or [],
            "apart_by": self.apart_by,
        }
        return {"group": self.group, "placement": placement}


ANYWHERE = PlacementOptions()


def set_level(kind: str, name: str, level: str, *, lower: bool, cloud: str | None, output: Format) -> None:
    """Change a thing's level, and say what has to move because of it. `kind`: as in a path."""
    path = f"/{kind}/{name}/level"
    change = connect().put(path, {"level": level, "lower": lower}, cloud=cloud)
    if output is Format.JSON:
        print_thing(change, output)
    what = f"{change['thing']} {name}"
    said(f"{what} is {level}" + ("" if change["was"] == level else f", and was {change['was']}"), output)
    for one in change["must_move"]:
        said(f"{one['thing']} {one['name']} has to leave blanket {one['blanket']}: {one['why']}", output)


def cost(text: str) -> dict[str, str]:
    """
    Raises:
        InvalidInput: it is not an amount and a currency.
    """
    match = _COST.match(text.strip().upper())
    if match is None:
        raise InvalidInput(f"{text!r} is not an amount and a currency", hint='for example "0.05 EUR"')
    return {"amount": match[1], "currency": match[2]}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TermsOptions:
    """What a provider says of itself."""

    location: Annotated[
        str | None, Parameter(help="where it is, from the large to the small, e.g. de or de-by")
    ] = None
    vcpu_hour: Annotated[str | None, Parameter(help="what an hour of a vCPU costs, e.g. 0.012")] = None
    gib_hour: Annotated[str | None, Parameter(help="what an hour of a GiB of memory costs")] = None
    currency: Annotated[str | None, Parameter(help="of both prices, e.g. EUR")] = None

    def body(self, now: dict[str, Any]) -> dict[str, Any]:
        """As a request has them; what is not given is as `now`.

        Raises:
            InvalidInput: a price without its currency.
        """
        price = dict(now.get("price") or {})
        given = {"vcpu_hour": self.vcpu_hour, "gib_hour": self.gib_hour}
        price |= {key: one for key, one in given.items() if one is not None}
        price |= {} if self.currency is None else {"currency": self.currency.upper()}
        if price and "currency" not in price:
            raise InvalidInput("a price needs a --currency", hint="for example --currency EUR")
        location = now.get("location") if self.location is None else self.location.lower()
        return {"location": location, "price": price or None}


NO_TERMS = TermsOptions()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class QuotaOptions:
    """What a cloud may have."""

    vcpus: Annotated[str | None, Parameter(help="virtual CPUs of all its instances, or none")] = None
    memory: Annotated[str | None, Parameter(help="memory of all its instances, e.g. 8G, or none")] = None
    disk: Annotated[str | None, Parameter(help="size of all its volumes, e.g. 100G, or none")] = None
    blankets: Annotated[str | None, Parameter(help="how many blankets, or none")] = None
    domains: Annotated[str | None, Parameter(help="in how many domains, or none")] = None

    def body(self, now: dict[str, Any]) -> dict[str, Any]:
        """As a request has them; what is not given is as `now`.

        Raises:
            InvalidInput: a number or a size that is none.
        """
        given = {
            "vcpus": (self.vcpus, int),
            "memory_mib": (self.memory, mebibytes),
            "disk_bytes": (self.disk, parse_size),
            "blankets": (self.blankets, int),
            "domains": (self.domains, int),
        }
        return {
            key: now.get(key) if text is None else limit_of(key, text, parse)
            for key, (text, parse) in given.items()
        }

    @property
    def given(self) -> bool:
        return self != NO_QUOTA


NO_QUOTA = QuotaOptions()


def limit_of(key: str, text: str, parse: Any) -> int | None:
    """
    Raises:
        InvalidInput: it is neither a number nor none.
    """
    if text.lower() == _NONE:
        return None
    try:
        found: int = parse(text)
    except ValueError as error:
        raise InvalidInput(f"--{key.partition('_')[0]} {text!r} is neither a number nor none") from error
    return found


def mebibytes(text: str) -> int:
    """
    Raises:
        ValueError: it is no whole number of them.
    """
    size = parse_size(text)
    if size % MIB:
        raise ValueError("not whole")
    return size // MIB


def quota_rows(cloud: dict[str, Any]) -> list[dict[str, str]]:
    """A line for each quantity."""
    return [
        {
            "quantity": key.partition("_")[0],
            "used": _shown(key, used),
            "limit": _NONE if cloud["quota"][key] is None else _shown(key, cloud["quota"][key]),
        }
        for key, used in cloud["used"].items()
    ]


def _shown(key: str, amount: int) -> str:
    if key == "memory_mib":
        return format_size(amount * MIB)
    return format_size(amount) if key == "disk_bytes" else str(amount)
