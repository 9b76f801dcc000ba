"""What a blanket's observer says is placed on our clock, whatever happens to the blanket's own."""

import json

import pytest

from supercloud.observer.account import Account
from supercloud.observer.timeline import count_copies

pytestmark = pytest.mark.unit

VM = "vm"


class Blanket:
    """A blanket's observer and its clock; lines arrive at once."""

    def __init__(self, name: str, *, clock_s: float = 1000.0) -> None:
        self.account = Account(name)
        self.ahead_s = clock_s  # theirs = ours + ahead
        self.running: list[str] = []

    def pong(self, asked_s: float, now_s: float) -> None:
        at_s = (asked_s + now_s) / 2 + self.ahead_s
        self._say({"pong": asked_s, "running": self.running, "at_s": at_s}, now_s)

    def runs(self, running: bool, now_s: float) -> None:
        self.running = [VM] if running else []
        self._say({"instance": VM, "running": running, "at_s": now_s + self.ahead_s}, now_s)

    def _say(self, line: dict[str, object], now_s: float) -> None:
        self.account.take(json.dumps(line).encode(), now_s=now_s)


def placed(account: Account) -> list[tuple[float, bool]]:
    return [(round(fact.at_s, 6), fact.running) for fact in account.facts()]


def test_a_fact_is_placed_by_the_best_recent_round_trip() -> None:
    blanket = Blanket("a")
    blanket.pong(0, 2)
    blanket.pong(2, 2.02)
    blanket.runs(True, 3)
    blanket.pong(4, 5)
    (fact,) = blanket.account.facts()
    assert (round(fact.at_s, 6), round(fact.uncertain_s, 6)) == (3, 0.01)


def test_what_came_before_the_first_answer_is_kept() -> None:
    blanket = Blanket("a")
    blanket.runs(True, 1)
    assert not blanket.account.related and blanket.account.facts() == []
    blanket.pong(2, 2.1)
    assert placed(blanket.account) == [(1, True)]


def test_after_a_freeze_facts_are_placed_by_the_clock_that_stood_still() -> None:
    """By the old offset, the pause after the thaw would seem to have come a hundred seconds before it did."""
    blanket = Blanket("a")
    blanket.pong(0, 0.1)
    blanket.runs(True, 1)
    blanket.pong(2, 2.1)
    blanket.ahead_s -= 100  # frozen from 3 to 103, a ping under way
    blanket.pong(3, 103.2)
    blanket.runs(False, 103.5)
    blanket.pong(104, 104.1)
    assert placed(blanket.account) == [(1, True), (103.5, False)]


def test_a_reset_ends_what_ran() -> None:
    blanket = Blanket("a")
    blanket.pong(0, 0.1)
    blanket.runs(True, 1)
    blanket.pong(2, 2.1)
    blanket.running, blanket.ahead_s = [], -60.0
    blanket.pong(70, 70.1)
    blanket.pong(71, 71.1)
    assert placed(blanket.account) == [(1, True), (70.05, False)]


def test_a_rollback_brings_back_what_ran_without_an_event() -> None:
    blanket = Blanket("a")
    blanket.pong(0, 0.1)
    blanket.runs(True, 1)
    blanket.pong(2, 2.1)
    blanket.runs(False, 3)
    blanket.pong(4, 4.1)
    blanket.running, blanket.ahead_s = [VM], 980.0
    blanket.pong(20, 20.1)
    blanket.pong(21, 21.1)
    assert placed(blanket.account) == [(1, True), (3, False), (20.05, True)]


def test_the_machines_end_is_the_end_of_all_that_ran() -> None:
    blanket = Blanket("a")
    blanket.pong(0, 0.1)
    blanket.runs(True, 1)
    blanket.account.ended(now_s=9)
    assert placed(blanket.account) == [(1, True), (9, False)]


def test_fragments_are_left_out() -> None:
    blanket = Blanket("a")
    for line in (b'_s": 3}\n', b"[]\n", b'{"pong": 1}\n', b"\xff\n"):
        blanket.account.take(line, now_s=1)
    assert blanket.account.facts() == []


def test_a_rolled_back_copy_beside_another_is_two() -> None:
    """The negative control of the real runs, in small."""
    source, target = Blanket("a"), Blanket("b", clock_s=5.0)
    for one in (source, target):
        one.pong(0, 0.1)
    source.runs(True, 1)
    source.runs(False, 10)
    target.runs(True, 11)
    for one in (source, target):
        one.pong(12, 12.1)
    assert count_copies(source.account.facts() + target.account.facts())[0].at_least == 1
    source.running, source.ahead_s = [VM], 500.0
    source.pong(20, 20.1)
    for one in (source, target):
        one.pong(21, 21.1)
    assert count_copies(source.account.facts() + target.account.facts())[0].at_least == 2
