"""Trust relations as values: what may be granted and passed on, what ends with what, how they are drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.cli.trustgraph import as_dot, as_text
from supercloud.model.errors import Exhausted, InvalidInput, Refused
from supercloud.model.names import new_id
from supercloud.model.trust import (
    LINKS,
    LONGEST_S,
    MOST,
    USUAL_S,
    Relation,
    TrustKind,
    TrustState,
    Wish,
    descending,
    grant,
    to_pass_on,
)

pytestmark = pytest.mark.unit
NOW = 1_000_000.0
IMAGE = new_id()


def wish(cloud: str, to: str, lasts_s: float | None = None, *, delegable: bool = False) -> Wish:
    return Wish(
        kind=TrustKind.SHARE_IMAGE, cloud=cloud, to=to, thing=IMAGE, lasts_s=lasts_s, delegable=delegable
    )


def granted(asked: Wish, parent: Relation | None = None, now: float = NOW, active: int = 0) -> Relation:
    return grant(asked, new_id(), parent=parent, now=now, active=active)


def test_it_lasts_as_long_as_is_said_and_never_longer_than_is_allowed() -> None:
    made = granted(wish("a", "b"))
    assert made.expires_at == NOW + USUAL_S and made.depth == 1 and made.parent is None
    assert granted(wish("a", "b", LONGEST_S)).expires_at == NOW + LONGEST_S
    for lasts_s in (0.0, -1.0, LONGEST_S + 1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="at most 400 days"):
            granted(wish("a", "b", lasts_s))
    assert made.state(made.expires_at - 1) is TrustState.ACTIVE
    assert made.state(made.expires_at) is TrustState.EXPIRED
    assert replace(made, revoked_at=NOW).state(NOW) is TrustState.REVOKED


def test_not_to_oneself_and_not_without_end() -> None:
    with pytest.raises(InvalidInput, match="of its own"):
        granted(wish("a", "a"))
    assert granted(wish("a", "b"), active=MOST - 1)
    with pytest.raises(Exhausted, match=str(MOST)):
        granted(wish("a", "b"), active=MOST)


def test_what_is_passed_on_is_refused_with_the_reason() -> None:
    parent = granted(wish("a", "b", 1000.0, delegable=True))
    for other, asked, why in (
        (replace(parent, delegable=False), wish("b", "c"), "passed on"),
        (replace(parent, revoked_at=NOW), wish("b", "c"), "revoked"),
        (replace(parent, expires_at=NOW), wish("b", "c"), "expired"),
        (replace(parent, depth=LINKS), wish("b", "c"), "3 times"),
        (parent, wish("x", "c"), "something else"),
        (replace(parent, thing=new_id()), wish("b", "c"), "something else"),
        (parent, wish("b", "c", 1001.0), "longer"),
    ):
        with pytest.raises(Refused, match=why):
            granted(asked, other)


@given(
    links=st.lists(
        st.tuples(st.one_of(st.none(), st.floats(1, LONGEST_S)), st.booleans(), st.floats(0, 1e6)),
        min_size=1,
        max_size=8,
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_chain_gets_only_less(links: list[tuple[float | None, bool, float]]) -> None:
    """Whatever is asked for, link after link, at whatever times."""
    parent: Relation | None = None
    now = NOW
    for number, (lasts_s, delegable, later) in enumerate(links):
        now += later
        try:
            made = granted(wish(str(number), str(number + 1), lasts_s, delegable=delegable), parent, now)
        except Refused:
            continue
        assert now < made.expires_at <= now + LONGEST_S and made.depth <= LINKS
        if parent is not None:
            assert made.expires_at <= parent.expires_at and parent.delegable
            assert (made.cloud, made.kind, made.thing) == (parent.to, parent.kind, parent.thing)
        parent = made if made.to == str(number + 1) else parent


def test_the_one_to_pass_on_is_the_best_that_may_be() -> None:
    short, long = (granted(wish("a", "b", lasts_s, delegable=True)) for lasts_s in (100.0, 200.0))
    fixed = granted(wish("a", "b", 300.0))
    over, deep = replace(long, revoked_at=NOW), replace(long, depth=LINKS, expires_at=NOW + 400)
    assert to_pass_on([short, long, fixed, over, deep], now=NOW) == long
    assert to_pass_on([fixed, over], now=NOW) is None
    assert to_pass_on([deep], now=NOW) == deep, "so that it is said why it cannot be"


def test_all_that_descends_is_found_and_nothing_else() -> None:
    root = granted(wish("a", "b", delegable=True))
    child = granted(wish("b", "c", delegable=True), root)
    grandchild, sibling = granted(wish("c", "d"), child), granted(wish("b", "e"), root)
    every = [grandchild, sibling, child, root, granted(wish("a", "b"))]
    assert set(descending([root.id], every)) == {child.id, grandchild.id, sibling.id}
    assert descending([child.id], every) == (grandchild.id,)
    assert descending([grandchild.id], every) == ()


# ---------------------------------------------------------------- drawn


def shown(cloud: str, to: str, parent: str | None = None, **other: Any) -> dict[str, Any]:
    return {
        "id": f"{cloud}-{to}",
        "kind": "share-image",
        "cloud": cloud,
        "cloud_id": f"id-{cloud}",
        "to": to,
        "to_id": f"id-{to}",
        "thing": "debian",
        "to_network": None,
        "closed": None,
        "delegable": False,
        "parent": parent,
        "state": "active",
        "expires_at": NOW,
        **other,
    }


def test_each_cloud_is_drawn_with_what_descends_from_it() -> None:
    found = [
        shown("b", "c", "a-b"),
        shown("a", "b", delegable=True),
        shown("x", "y", "gone", state="revoked"),
        shown("a", "d"),
    ]
    lines = [line.partition(", until")[0] for line in as_text(found).splitlines()]
    assert lines == [
        "a",
        "├─ share-image debian → b",
        "│  └─ share-image debian → c",
        "└─ share-image debian → d",
        "x",
        "└─ share-image debian → y, revoked",
    ]
    assert as_text(found).splitlines()[1].endswith("may be passed on")


def test_a_connection_is_drawn_with_both_networks_and_why_it_is_closed() -> None:
    network = {"id": "n", "name": "jobs", "cidr": "10.8.0.0/24"}
    one = shown("a", "b", kind="connect", thing="web", to_network=network)
    assert as_text([one]).splitlines()[1].startswith("└─ connect web → b/jobs, until ")
    assert '"id-a" -> "id-b" [label="connect web from jobs\\nuntil ' in as_dot([one])
    shut = as_text([one | {"closed": "network web is isolated"}])
    assert shut.rstrip().endswith(", closed: network web is isolated")


def test_graphviz_gets_clouds_and_relations_and_no_way_out_of_a_string() -> None:
    drawn = as_dot([shown("a", "b", thing='x"] -> evil [label="\n')])
    assert '"id-a" -> "id-b" [label="share-image x\\"] -> evil' in drawn
    assert drawn.count("\n") == 5 and drawn.startswith("digraph trust {") and drawn.endswith("}\n")
