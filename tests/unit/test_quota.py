"""Quotas as values: whatever is asked in whatever order, no cloud and none within it has more than it may."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from supercloud.model.errors import OverQuota
from supercloud.model.names import GIB
from supercloud.model.quota import (
    QUANTITIES,
    UNLIMITED,
    Amounts,
    Quota,
    Slice,
    check_quota,
    check_room,
    check_slice,
    taken,
)

pytestmark = pytest.mark.unit
_few = st.integers(0, 6)
amounts = st.builds(Amounts, **dict.fromkeys(QUANTITIES, _few))
quotas = st.builds(Quota, **dict.fromkeys(QUANTITIES, st.none() | _few))


def test_a_refusal_says_which_used_asked_and_limit() -> None:
    quota = Quota(vcpus=8, memory_mib=4096, disk_bytes=10 * GIB)
    has = Amounts(vcpus=6, memory_mib=4096, disk_bytes=3 * GIB)
    check_room("mine", quota, has, Amounts(vcpus=2, blankets=99))
    with pytest.raises(OverQuota, match=r"cloud mine for vCPUs is 8: 6 used, 3 asked"):
        check_room("mine", quota, has, Amounts(vcpus=3))
    with pytest.raises(OverQuota, match=r"for memory is 4G: 4G used, 512M asked"):
        check_room("mine", quota, has, Amounts(memory_mib=512))
    with pytest.raises(OverQuota, match=r"for disk is 10G: 3G used, 8G asked"):
        check_room("mine", quota, has, Amounts(disk_bytes=8 * GIB))


@given(quotas, amounts, amounts)
def test_what_there_is_room_for_is_within_the_quota(quota: Quota, has: Amounts, asked: Amounts) -> None:
    try:
        check_room("c", quota, has, asked)
        fits = True
    except OverQuota:
        fits = False
    after = asdict(has + asked)
    over = [
        one
        for one in QUANTITIES
        if (limit := getattr(quota, one)) is not None and getattr(asked, one) and after[one] > limit
    ]
    assert fits == (not over)


def test_a_limit_of_the_parent_asks_for_one_of_the_nested() -> None:
    with pytest.raises(OverQuota, match=r"cloud team needs a limit for disk, since cloud mine"):
        check_slice("mine", Quota(disk_bytes=9), Amounts(), Slice(cloud="team", quota=Quota(vcpus=1)))
    with pytest.raises(OverQuota, match=r"cloud team needs a limit for blankets"):
        check_quota("mine", Quota(blankets=9), Amounts(), [Slice(cloud="team", quota=UNLIMITED)])


@dataclass
class Node:
    quota: Quota
    used: Amounts = field(default_factory=Amounts)
    nested: list[Node] = field(default_factory=list)

    def slices(self, but: Node | None = None) -> list[Slice]:
        return [Slice(cloud="n", quota=one.quota) for one in self.nested if one is not but]


class Clouds(RuleBasedStateMachine):
    """Clouds in clouds, whose owners ask for things and slices and change quotas, each checked."""

    nodes: list[tuple[Node | None, Node]]

    @initialize(quota=quotas)
    def begin(self, quota: Quota) -> None:
        self.nodes = [(None, Node(quota))]

    def _one(self, at: int) -> tuple[Node | None, Node]:
        return self.nodes[at % len(self.nodes)]

    @rule(at=_few, asked=amounts)
    def use(self, at: int, asked: Amounts) -> None:
        _, node = self._one(at)
        with suppress(OverQuota):
            check_room("c", node.quota, taken(node.used, node.slices()), asked)
            node.used += asked

    @rule(at=_few, one=st.sampled_from(QUANTITIES))
    def release(self, at: int, one: str) -> None:
        _, node = self._one(at)
        node.used = replace(node.used, **{one: 0})

    @rule(at=_few, quota=quotas)
    def nest(self, at: int, quota: Quota) -> None:
        _, parent = self._one(at)
        with suppress(OverQuota):
            has = taken(parent.used, parent.slices())
            check_slice("c", parent.quota, has, Slice(cloud="n", quota=quota))
            made = Node(quota)
            parent.nested.append(made)
            self.nodes.append((parent, made))

    @rule(at=_few, quota=quotas)
    def change(self, at: int, quota: Quota) -> None:
        parent, node = self._one(at)
        with suppress(OverQuota):
            if parent is not None:
                has = taken(parent.used, parent.slices(but=node))
                check_slice("c", parent.quota, has, Slice(cloud="n", quota=quota))
            check_quota("c", quota, node.used, node.slices())
            node.quota = quota

    @invariant()
    def nobody_has_more_than_it_may(self) -> None:
        for _, node in self.nodes:
            has = asdict(taken(node.used, node.slices()))
            whole = asdict(self._whole(node))
            for one in QUANTITIES:
                limit = getattr(node.quota, one)
                if limit is not None:
                    assert has[one] <= limit
                    assert whole[one] <= limit, "with all that is in it, however deep"

    def _whole(self, node: Node) -> Amounts:
        return sum((self._whole(one) for one in node.nested), node.used)


TestClouds = Clouds.TestCase
TestClouds.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
