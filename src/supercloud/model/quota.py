"""What a cloud may have at most, and what of it is taken: by its own things, and by the clouds within it.

A nested cloud's quota is a slice of its parent's. It is taken from there as a whole, whether it is used or
not, so that what is promised can always be kept, and no cloud has to look at another's things.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Annotated

from supercloud.model.errors import OverQuota
from supercloud.model.limits import Limits
from supercloud.model.names import MIB
from supercloud.model.units import format_size

Count = Annotated[int, Limits(ge=0, lt=1 << 31)]
Mebibytes = Annotated[int, Limits(ge=0, lt=1 << 40)]
#: Every reader of JSON has it exactly.
Bytes = Annotated[int, Limits(ge=0, lt=1 << 53)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """So much of each. Instances and volumes count as they were made, whether they run or not."""

    vcpus: Count = 0  # of instances
    memory_mib: Mebibytes = 0  # of instances
    disk_bytes: Bytes = 0  # of volumes, as guests see them
    blankets: Count = 0
    domains: Count = 0  # that blankets are in

    def __add__(self, other: Amounts) -> Amounts:
        mine, theirs = asdict(self), asdict(other)
        return Amounts(**{one: mine[one] + theirs[one] for one in mine})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The most of each. None: as much as there is."""

    vcpus: Count | None = None
    memory_mib: Mebibytes | None = None
    disk_bytes: Bytes | None = None
    blankets: Count | None = None
    domains: Count | None = None

    @property
    def amounts(self) -> Amounts:
        """What a slice of this size takes from its parent."""
        return Amounts(**{one: limit or 0 for one, limit in asdict(self).items()})

    def or_more(self, other: Quota) -> Quota:
        """Of each as much as the larger of both."""
        mine, theirs = asdict(self), asdict(other)
        both = {one: (mine[one], theirs[one]) for one in mine}
        return Quota(**{one: None if None in limits else max(limits) for one, limits in both.items()})


#: No limit at all.
UNLIMITED = Quota()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A nested cloud, as its parent sees it."""

    cloud: str  # its name
    quota: Quota


QUANTITIES = tuple(one.name for one in fields(Quota))
_WORDS = {"vcpus": "vCPUs", "memory_mib": "memory", "disk_bytes": "disk"}


def taken(used: Amounts, slices: Iterable[Slice]) -> Amounts:
    """Of a quota: by the cloud's own things, and by the clouds within it."""
    for one in slices:
        used += one.quota.amounts
    return used


def check_room(cloud: str, quota: Quota, has: Amounts, asked: Amounts) -> None:
    """Whether `asked` fits beside what is taken already.

    Raises:
        OverQuota: naming the quantity, what is used, asked and allowed.
    """
    for one in QUANTITIES:
        limit, used, more = getattr(quota, one), getattr(has, one), getattr(asked, one)
        if limit is not None and more > 0 and used + more > limit:
            raise OverQuota(
                f"the quota of cloud {cloud} for {_WORDS.get(one, one)} is {said(one, limit)}: "
                f"{said(one, used)} used, {said(one, more)} asked",
                hint=f"supercloud cloud quota {cloud}",
            )


def check_quota(cloud: str, quota: Quota, used: Amounts, slices: Iterable[Slice]) -> None:
    """Whether a cloud that has so much already can have this quota from now on.

    Raises:
        OverQuota: it has more, or a cloud within it has no limit where it is to have one.
    """
    slices = tuple(slices)
    has = taken(used, slices)
    for one in QUANTITIES:
        limit = getattr(quota, one)
        if limit is None:
            continue
        for nested in slices:
            _check_bounded(nested, one, cloud)
        if getattr(has, one) > limit:
            raise OverQuota(
                f"cloud {cloud} has {said(one, getattr(has, one))} of {_WORDS.get(one, one)} by now, "
                f"more than {said(one, limit)}",
                hint=f"supercloud cloud quota {cloud}",
            )


def check_slice(parent: str, quota: Quota, has: Amounts, nested: Slice) -> None:
    """Whether a slice can be taken; `has`: what is taken of the parent's quota without it.

    Raises:
        OverQuota: the parent has not so much left, or the slice has no limit where the parent has one.
    """
    for one in QUANTITIES:
        if getattr(quota, one) is not None:
            _check_bounded(nested, one, parent)
    check_room(parent, quota, has, nested.quota.amounts)


def _check_bounded(nested: Slice, quantity: str, parent: str) -> None:
    if getattr(nested.quota, quantity) is None:
        raise OverQuota(
            f"cloud {nested.cloud} needs a limit for {_WORDS.get(quantity, quantity)}, "
            f"since cloud {parent}, which it is in, has one"
        )


def said(quantity: str, amount: int) -> str:
    """As people write it."""
    if quantity == "memory_mib":
        return format_size(amount * MIB)
    return format_size(amount) if quantity == "disk_bytes" else str(amount)
