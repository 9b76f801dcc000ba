"""The observer counts copies right, whatever order facts come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.observer.timeline import Fact, Run, count_copies, most_at_once, runs

pytestmark = pytest.mark.unit

A, B = "blanket-a", "blanket-b"


def fact(at_s: float, blanket: str, running: bool, *, uncertain_s: float = 0.0) -> Fact:
    return Fact(at_s=at_s, uncertain_s=uncertain_s, blanket=blanket, instance="vm", running=running)


def test_a_clean_migration_is_one_copy() -> None:
    said = [fact(0, A, True), fact(10, A, False), fact(10.1, B, True)]
    (copies,) = count_copies(said)
    assert (copies.at_most, copies.at_least) == (1, 1)


def test_a_second_copy_is_seen() -> None:
    said = [fact(0, A, True), fact(10, B, True), fact(11, A, False)]
    (copies,) = count_copies(said)
    assert (copies.at_most, copies.at_least) == (2, 2)


def test_uncertain_clocks_widen_one_bound_and_narrow_the_other() -> None:
    said = [fact(0, A, True), fact(10, A, False), fact(10.1, B, True, uncertain_s=0.2), fact(20, B, False)]
    (copies,) = count_copies(said)
    assert (copies.at_most, copies.at_least) == (2, 1)


def test_a_handover_at_the_same_moment_is_not_an_overlap() -> None:
    assert most_at_once([Run(blanket=A, start_s=0, end_s=5), Run(blanket=B, start_s=5, end_s=None)]) == 1


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from([A, B]), st.booleans()), max_size=30))
def test_order_of_arrival_does_not_matter(said: list[tuple[float, str, bool]]) -> None:
    unique = {at_s: fact(at_s, blanket, running) for at_s, blanket, running in said}
    facts = list(unique.values())
    assert runs(facts) == runs(list(reversed(facts)))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1, max_size=20))
def test_most_at_once_agrees_with_looking_at_every_start(spans: list[tuple[float, float]]) -> None:
    stretches = [Run(blanket=A, start_s=start, end_s=start + length) for start, length in spans if length > 0]
    seen = [
        sum(1 for run in stretches if run.start_s <= moment.start_s < (run.end_s or 0))
        for moment in stretches
    ]
    assert most_at_once(stretches) == max(seen, default=0)
