"""The keeper's decisions: never later than the store, never without a right, never by its own clock alone."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from supercloud.keeper.journal import Journal
from supercloud.keeper.keeper import Hands, Keeper
from supercloud.keeper.rights import Lost, Park, Pause, Permit, Resume, Rights, Seen, Stop
from supercloud.keeper.stops import TOLERANCE_S, Moment
from supercloud.model.errors import RightRefused
from supercloud.model.right import (
    Cloned,
    Renewal,
    RightRecord,
    RightTerms,
    RunRight,
    granted,
    issue,
    renew,
    surrender,
)
from supercloud.ports.clock import Instant
from supercloud.ports.controller import RenewalAnswer

pytestmark = pytest.mark.unit

INSTANCE = "00000000-0000-4000-8000-000000000001"
HERE = "00000000-0000-4000-8000-00000000000a"
ELSEWHERE = "00000000-0000-4000-8000-00000000000b"
TERMS = RightTerms()


def moment(s: float, *, ahead: float = 0.0, boot: str = "boot") -> Moment:
    return Moment(boot_id=boot, boottime_s=s, rtc_s=float(int(1_000_000 + s + ahead)))


def right(epoch: int = 1, *, nonce: str = "0" * 32, hold: bool = False) -> RunRight:
    return RunRight(
        instance=INSTANCE, epoch=epoch, blanket=HERE, nonce=nonce, length_s=60, grace_s=30, hold=hold
    )


def keeper(at: Moment) -> Rights:
    numbers = count(1)
    return Rights(nonce=lambda: f"{next(numbers):032x}", at=at)


def renewed(rights: Rights, sent: Moment, answered: Moment, *, hold: bool = False) -> None:
    asked = rights.due(sent)
    answers = [
        RenewalAnswer(instance=one.instance, right=right(one.epoch, nonce="f" * 32, hold=hold))
        for one in asked
    ]
    rights.answered(asked, answers, answered)


def test_a_pushed_right_gives_no_time_until_it_is_renewed_and_then_from_before_it_was_asked() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    assert not rights.may_run(INSTANCE, moment(0))
    renewed(rights, moment(5), moment(20))
    assert rights.may_run(INSTANCE, moment(64.9))
    assert not rights.may_run(INSTANCE, moment(65))


def test_a_right_counted_from_a_known_moment_runs_at_once() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(50), counted_from_s=10)
    assert rights.may_run(INSTANCE, moment(69.9))
    assert not rights.may_run(INSTANCE, moment(70))


def test_a_repeated_renewal_is_the_same_and_counts_from_the_first() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    first = rights.due(moment(1))
    assert rights.due(moment(30)) == first
    rights.answered(first, [RenewalAnswer(instance=INSTANCE, right=right(nonce="f" * 32))], moment(31))
    assert rights.left_s(INSTANCE, moment(31)) == pytest.approx(30)
    again = rights.due(moment(31))
    assert again and again[0].request != first[0].request and again[0].nonce == "f" * 32


def test_expiry_pauses_grace_stops_and_a_new_right_resumes_only_what_the_keeper_paused() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    running, paused = {INSTANCE: Seen.RUNNING}, {INSTANCE: Seen.PAUSED}
    assert rights.tick(moment(59), running) == [Permit(instance=INSTANCE, seconds=1)]
    assert Pause(instance=INSTANCE, reason="expired") in rights.tick(moment(60), running)
    assert rights.tick(moment(89), paused) == []
    renewed(rights, moment(89), moment(89))
    assert Resume(instance=INSTANCE) in rights.tick(moment(89), paused)
    assert Resume(instance=INSTANCE) not in rights.tick(moment(90), paused)  # now it is the owner's pause
    assert Stop(instance=INSTANCE, reason="expired") in rights.tick(moment(179.5), paused)


def test_an_owners_pause_is_not_undone() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    actions = rights.tick(moment(1), {INSTANCE: Seen.PAUSED})
    assert not any(isinstance(action, Resume) for action in actions)


def test_what_runs_without_a_right_is_paused_and_never_ended_unasked() -> None:
    rights = keeper(moment(0))
    assert rights.tick(moment(1), {INSTANCE: Seen.RUNNING}) == [Pause(instance=INSTANCE, reason="no-right")]
    assert rights.tick(moment(9999), {INSTANCE: Seen.PAUSED}) == []
    assert rights.tick(moment(9999), {INSTANCE: Seen.IDLE}) == []


def test_a_stop_of_the_machine_loses_every_right_until_it_is_renewed_from_afterwards() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    asked = rights.due(moment(10))
    after = moment(11, ahead=40)
    assert Pause(instance=INSTANCE, reason="machine-stopped") in rights.tick(after, {INSTANCE: Seen.RUNNING})
    # The answer to what was asked before the stop brings its nonce and no time.
    answer = RenewalAnswer(instance=INSTANCE, right=right(nonce="e" * 32))
    rights.answered(asked, [answer], moment(12, ahead=40))
    assert not rights.may_run(INSTANCE, moment(12, ahead=40))
    renewed(rights, moment(13, ahead=40), moment(13, ahead=40))
    assert rights.may_run(INSTANCE, moment(13, ahead=40))


def test_short_stops_add_up_and_drift_does_not() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    for step in range(1, 50):
        at = moment(step, ahead=step * 0.1)
        rights.tick(at, {})
        if rights.held[INSTANCE].lost is not None:
            assert rights.held[INSTANCE].lost is Lost.MACHINE_STOPPED
            assert step * 0.1 <= TOLERANCE_S + 1.2
            break
    else:
        pytest.fail("five seconds of stops went unseen")
    calm = keeper(moment(0))
    calm.grant(right(), moment(0))
    for step in range(0, 86_400, 60):
        renewed(calm, moment(step, ahead=step * 100e-6), moment(step, ahead=step * 100e-6))
    assert calm.held[INSTANCE].lost is None


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize(("code", "lost"), [("right-refused", Lost.REFUSED), (Cloned.code, Lost.CLONED)])
def test_a_refusal_pauses_at_once_whatever_the_mode(hold: bool, code: str, lost: Lost) -> None:
    rights = keeper(moment(0))
    rights.grant(right(hold=hold), moment(0))
    renewed(rights, moment(0), moment(0), hold=hold)
    asked = rights.due(moment(20))
    rights.answered(asked, [RenewalAnswer(instance=INSTANCE, refused=code)], moment(20))
    assert rights.held[INSTANCE].lost is lost
    actions = rights.tick(moment(20), {INSTANCE: Seen.RUNNING})
    assert Pause(instance=INSTANCE, reason=lost.value) in actions
    assert rights.due(moment(21)) == ()
    with pytest.raises(RightRefused):
        rights.grant(right(hold=hold), moment(22))
    rights.grant(right(epoch=2), moment(23))


def test_an_answer_that_says_nothing_of_the_right_loses_nothing() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    asked = rights.due(moment(20))
    rights.answered(asked, [RenewalAnswer(instance=INSTANCE, refused="unavailable")], moment(20))
    assert rights.may_run(INSTANCE, moment(21))
    assert rights.due(moment(21)) == asked


def test_hold_runs_on_while_nobody_answers_and_its_traffic_with_it() -> None:
    rights = keeper(moment(0))
    rights.grant(right(hold=True), moment(0))
    assert not rights.may_run(INSTANCE, moment(0))  # never confirmed: not even hold
    renewed(rights, moment(0), moment(0), hold=True)
    permitted_until = 0.0
    for second in range(0, 4000, 5):
        at = moment(second)
        for action in rights.tick(at, {INSTANCE: Seen.RUNNING}):
            assert isinstance(action, Permit)
            permitted_until = second + action.seconds
        assert permitted_until > second + 5
        assert rights.may_feed(at, {INSTANCE: Seen.RUNNING})


def test_a_reboot_voids_and_a_restart_does_not() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    kept = Rights(nonce=lambda: "a" * 32, at=moment(30), restored=rights.snapshot())
    assert kept.may_run(INSTANCE, moment(59))
    at = moment(3, ahead=60, boot="another")
    reborn = Rights(nonce=lambda: "a" * 32, at=at, restored=rights.snapshot())
    assert not reborn.may_run(INSTANCE, at)
    assert reborn.due(at) == ()
    assert reborn.epochs == {INSTANCE: 1}
    # A retried start may use the right again, but only with the newest nonce and after a renewal.
    reborn.grant(right(), at)
    (asked,) = reborn.due(at)
    assert asked.nonce == "f" * 32
    assert not reborn.may_run(INSTANCE, at)


def test_a_stop_during_a_restart_of_the_keeper_is_seen() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    kept = Rights(nonce=lambda: "a" * 32, at=moment(1, ahead=30), restored=rights.snapshot())
    assert not kept.may_run(INSTANCE, moment(1, ahead=30))


def test_a_stop_that_was_seen_sets_the_clock_of_what_is_inside(tmp_path: Path) -> None:
    """At the next look, once for each stop, and again where it failed."""
    at, caught_up = [moment(0)], []

    class Clock:
        def now(self) -> float:
            return at[0].boottime_s

        def instant(self) -> Instant:
            return Instant(at[0].boot_id, at[0].boottime_s)

        def rtc_s(self) -> float:
            return at[0].rtc_s

    def catch_up() -> None:
        caught_up.append(at[0].boottime_s)
        if len(caught_up) == 1:
            raise OSError("not now")

    async def look() -> None:
        monitors = SimpleNamespace(seen=dict)
        keeper = Keeper(
            clock=Clock(),  # type: ignore[arg-type]
            journal=Journal(tmp_path / "keeper.sqlite"),
            hands=Hands(permit=None, feed=lambda: None, catch_up=catch_up),  # type: ignore[arg-type]
            rights=lambda now, restored: Rights(nonce=lambda: "0" * 32, at=now, restored=restored),
            monitors=lambda _: monitors,  # type: ignore[arg-type,return-value]
        )
        for seen in (
            moment(1),
            moment(2, ahead=2.0),
            moment(3, ahead=30),
            moment(4, ahead=30),
            moment(5, ahead=30),
        ):
            at[0] = seen
            keeper._tick()

    asyncio.run(look())
    assert caught_up == [3, 4], "it failed once"


def test_what_was_forgotten_does_not_come_back() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    rights.forget(INSTANCE)
    with pytest.raises(RightRefused):
        rights.grant(right(), moment(1))
    rights.grant(right(epoch=2), moment(1))


def test_what_was_sent_goes_on_only_once_the_store_says_that_no_migration_is_open() -> None:
    """The target may have it by then: what it wrote here afterwards would be lost with a commit there."""
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    early = rights.due(moment(10))
    rights.tick(moment(11), {INSTANCE: Seen.SENT})
    assert not rights.may_run(INSTANCE, moment(11))
    assert rights.tick(moment(12), {INSTANCE: Seen.RUNNING}) == [Pause(instance=INSTANCE, reason="sent")]
    assert not rights.may_feed(moment(12), {INSTANCE: Seen.RUNNING})
    # Asked before it was sent, when no migration was open yet: says nothing of now.
    rights.answered(early, [RenewalAnswer(instance=INSTANCE, right=right(nonce="e" * 32))], moment(12))
    assert not rights.may_run(INSTANCE, moment(12))
    for second, contested in ((13, True), (15, False)):
        (asked,) = rights.due(moment(second))
        said = replace(right(nonce=f"{second:032x}"), contested=contested)
        rights.answered([asked], [RenewalAnswer(instance=INSTANCE, right=said)], moment(second))
        assert rights.may_run(INSTANCE, moment(second)) is not contested
    assert Resume(instance=INSTANCE) in rights.tick(moment(15), {INSTANCE: Seen.PAUSED})


def test_what_is_parked_stays_held_and_goes_on_by_the_keeper_alone_once_it_is_ours() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    assert not rights.park(INSTANCE), "it was not sent"
    rights.tick(moment(11), {INSTANCE: Seen.SENT})
    assert rights.park(INSTANCE)
    again = Rights(nonce=lambda: "f" * 32, at=moment(12), restored=rights.snapshot())  # the keeper restarts
    for kept in (rights, again):
        assert kept.tick(moment(12), {INSTANCE: Seen.SENT})[0] == Park(instance=INSTANCE)
        assert not kept.may_run(INSTANCE, moment(12))
    for second, contested in ((13, True), (15, False)):
        (asked,) = rights.due(moment(second))
        said = replace(right(nonce=f"{second:032x}"), contested=contested)
        rights.answered([asked], [RenewalAnswer(instance=INSTANCE, right=said)], moment(second))
        does = rights.tick(moment(second), {INSTANCE: Seen.SENT})
        assert (Resume(instance=INSTANCE) in does) is not contested
        assert (Park(instance=INSTANCE) in does) is contested
    # Until it shows that it does; and that it showed as sent until then is no news.
    assert Resume(instance=INSTANCE) in rights.tick(moment(16), {INSTANCE: Seen.SENT})
    assert not rights.tick(moment(16), {INSTANCE: Seen.RUNNING})
    assert rights.may_run(INSTANCE, moment(16)) and not rights.held[INSTANCE].parked


def test_what_is_parked_and_committed_elsewhere_never_goes_on() -> None:
    rights = keeper(moment(0))
    rights.grant(right(), moment(0))
    renewed(rights, moment(0), moment(0))
    rights.tick(moment(11), {INSTANCE: Seen.SENT})
    assert rights.park(INSTANCE)
    (asked,) = rights.due(moment(13))
    rights.answered([asked], [RenewalAnswer(instance=INSTANCE, refused="right-refused")], moment(13))
    assert Park(instance=INSTANCE) in rights.tick(moment(14), {INSTANCE: Seen.SENT})
    assert Stop(instance=INSTANCE, reason="refused") in rights.tick(moment(44), {INSTANCE: Seen.SENT})


def test_what_only_begins_is_let_be_until_there_was_a_right_for_it() -> None:
    begins = {INSTANCE: Seen.BEGINNING}
    rights = keeper(moment(0))
    assert rights.tick(moment(1), begins) == [] and rights.may_feed(moment(1), begins)
    rights.grant(right(), moment(2))
    assert rights.tick(moment(2), begins) == [], "it gives no time before it is renewed"
    renewed(rights, moment(2), moment(3))
    assert Pause not in {type(action) for action in rights.tick(moment(3), begins)}
    assert Pause(instance=INSTANCE, reason="expired") in rights.tick(moment(63), begins)
    assert not rights.may_feed(moment(63), begins), "it may have been told to go on"
    rights.forget(INSTANCE)
    assert rights.tick(moment(64), begins) == []


def test_a_mute_process_counts_as_running() -> None:
    rights = keeper(moment(0))
    assert not rights.may_feed(moment(0), {INSTANCE: Seen.MUTE})
    assert rights.at_fault(moment(0), {INSTANCE: Seen.MUTE}) == {INSTANCE: "no-right"}
    assert rights.may_feed(moment(0), {INSTANCE: Seen.PAUSED})


class AgainstTheStore(RuleBasedStateMachine):
    """One keeper and the real store's functions, with a network that delays, drops and repeats.

    `real` is true time. The store's clock is it; the keeper's stops while the machine is stopped.
    """

    kind = Rights

    def __init__(self) -> None:
        super().__init__()
        self.real = 1000.0
        self.stopped = 0.0  # how long the machine was stopped so far
        self.boot = 0
        self.boot_at = 0.0
        self.record = RightRecord(instance=INSTANCE)
        self.requests: list[tuple[Renewal, ...]] = []
        self.answers: list[tuple[tuple[Renewal, ...], list[RenewalAnswer]]] = []
        self.numbers = count(1)

    def nonce(self) -> str:
        return f"{next(self.numbers):032x}"

    def at(self) -> Moment:
        return Moment(
            boot_id=str(self.boot),
            boottime_s=self.real - self.stopped - self.boot_at,
            rtc_s=float(int(self.real)),
        )

    @initialize()
    def begin(self) -> None:
        self.rights = self.kind(nonce=self.nonce, at=self.at())

    @rule(seconds=st.floats(0.01, 40))
    def pass_time(self, seconds: float) -> None:
        self.real += seconds

    @rule(seconds=st.floats(0.1, 200))
    def stop_the_machine(self, seconds: float) -> None:
        self.real += seconds
        self.stopped += seconds

    @rule()
    def restart_the_keeper(self) -> None:
        self.rights = self.kind(nonce=self.nonce, at=self.at(), restored=self.rights.snapshot())

    @rule()
    def reboot(self) -> None:
        self.boot += 1
        self.boot_at, self.stopped = self.real, 0.0
        self.rights = self.kind(nonce=self.nonce, at=self.at(), restored=self.rights.snapshot())

    @rule(to=st.sampled_from([HERE, ELSEWHERE]), counted=st.booleans(), late=st.floats(0, 50))
    def issue_a_right(self, to: str, counted: bool, late: float) -> None:
        before = self.at()
        try:
            self.record = issue(self.record, to=to, now=self.real, terms=TERMS, nonce=self.nonce())
        except RightRefused:
            return
        pushed = granted(self.record, TERMS)
        self.real += late
        if to == HERE:
            since = before.boottime_s if counted else None
            self.rights.grant(pushed, self.at(), counted_from_s=since)

    @rule()
    def give_up_elsewhere(self) -> None:
        if self.record.holder == ELSEWHERE:
            self.record = surrender(self.record, by=ELSEWHERE, epoch=self.record.epoch)

    @rule()
    def ask(self) -> None:
        if asked := self.rights.due(self.at()):
            self.requests.append(asked)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), lost=st.booleans())
    def store_answers(self, data: st.DataObject, lost: bool) -> None:
        asked = data.draw(st.sampled_from(self.requests))
        said = []
        for one in asked:
            try:
                self.record = renew(self.record, one, by=HERE, now=self.real, terms=TERMS, nonce=self.nonce())
                said.append(RenewalAnswer(instance=INSTANCE, right=granted(self.record, TERMS)))
            except RightRefused as error:
                # A request that the network delivered twice, long after, is the only way to a "clone" here.
                if error.code == Cloned.code and asked is self.requests[-1]:
                    raise AssertionError("the keeper looked like a clone of itself") from error
                said.append(RenewalAnswer(instance=INSTANCE, refused="right-refused"))
        if not lost:
            self.answers.append((asked, said))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def keeper_hears(self, data: st.DataObject) -> None:
        asked, said = data.draw(st.sampled_from(self.answers))
        self.rights.answered(asked, said, self.at())

    @invariant()
    def never_later_than_the_store(self) -> None:
        """Whenever the keeper lets it run, nobody else can be handed the right for the drift bound."""
        at = self.at()
        self.rights.tick(at, {INSTANCE: Seen.RUNNING})
        if not self.rights.may_run(INSTANCE, at):
            assert not self.rights.may_feed(at, {INSTANCE: Seen.RUNNING})
            return
        deadline = self.real + self.rights.left_s(INSTANCE, at)
        assert self.record.holder == HERE
        assert self.record.epoch == self.rights.held[INSTANCE].right.epoch
        assert deadline <= self.record.expires_at + TOLERANCE_S + 1.1


CI = settings(max_examples=150, stateful_step_count=40, deadline=None)
AgainstTheStore.TestCase.settings = CI
TestAgainstTheStore = AgainstTheStore.TestCase


class CountsFromTheAnswer(Rights):
    def answered(self, renewals: Sequence[Renewal], answers: Iterable[RenewalAnswer], at: Moment) -> bool:
        for instance, held in self._held.items():
            if held.asked is not None:
                self._held[instance] = replace(held, asked=replace(held.asked, at_s=at.boottime_s))
        return super().answered(renewals, answers, at)


class CountsAPushFromItsArrival(Rights):
    def grant(self, right: RunRight, at: Moment, *, counted_from_s: float | None = None) -> None:
        super().grant(right, at, counted_from_s=at.boottime_s)


class SeesNoStops(Rights):
    def _look(self, at: Moment) -> None:
        return


class OutlivesARefusal(Rights):
    def answered(self, renewals: Sequence[Renewal], answers: Iterable[RenewalAnswer], at: Moment) -> bool:
        kept = [answer for answer in answers if answer.refused is None]
        return super().answered(renewals[: len(kept)], kept, at)

    def may_run(self, instance: str, at: Moment) -> bool:
        held = self._held.get(instance)
        return held is not None and held.renewed_s is not None


@pytest.mark.parametrize(
    "bug", [CountsFromTheAnswer, CountsAPushFromItsArrival, SeesNoStops, OutlivesARefusal]
)
def test_the_machine_finds_each_deliberate_bug(bug: type[Rights]) -> None:
    """Negative controls: were the state machine blind, these would pass."""

    class Buggy(AgainstTheStore):
        kind = bug

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            Buggy,
            settings=settings(
                CI,
                max_examples=5000,
                derandomize=True,
                report_multiple_bugs=False,
                database=None,
                phases=[Phase.generate],
            ),
        )
