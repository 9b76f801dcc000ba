"""One behaviour of ports.rights.RightsStore: on SQLite, on PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, NotFound, RightRefused
from supercloud.model.names import new_id
from supercloud.model.right import Renewal, RightTerms, RunRight
from supercloud.ports.clock import StoreTime
from supercloud.ports.rights import Verdict
from supercloud.services.store.engine import Store
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import Right
from supercloud.services.store.time import Timekeeper, timekeeper

pytestmark = pytest.mark.contract
TERMS = RightTerms(length_s=60, margin_s=15, grace_s=30, renew_every_s=10)


class Jumping:
    """The store's real clock, that a test moves on."""

    def __init__(self, real: Timekeeper) -> None:
        self._real = real
        self.ahead_s = 0.0
        self.incarnation = ""

    async def read(self, session: AsyncSession) -> StoreTime:
        time = await self._real.read(session)
        return StoreTime(time.incarnation + self.incarnation, time.now_s + self.ahead_s)

    async def now_s(self, session: AsyncSession) -> float:
        return await self._real.now_s(session) + self.ahead_s


@dataclass
class Bench:
    store: Store
    rights: SqlRights
    clock: Jumping
    instance: str
    cloud: str

    async def add(self, *, hold: bool = False) -> str:
        instance = new_id()
        async with self.store.write() as session:
            self.rights.create(session, instance, cloud=self.cloud, terms=TERMS, hold=hold)
        return instance


@pytest.fixture
async def bench(store: Store) -> AsyncIterator[Bench]:
    clock = Jumping(timekeeper(store))
    made = Bench(store, SqlRights(store, clock), clock, "", new_id())
    made.instance = await made.add()
    yield made


def ask(right: RunRight, **other: str) -> Renewal:
    values = {"nonce": right.nonce, "request": secrets.token_hex(16)} | other
    return Renewal(
        instance=right.instance, epoch=right.epoch, nonce=values["nonce"], request=values["request"]
    )


async def test_epochs_only_grow_and_one_holder_at_a_time(bench: Bench) -> None:
    a, b = new_id(), new_id()
    first = await bench.rights.issue(bench.instance, to=a, operation=new_id())
    assert (first.epoch, first.blanket) == (1, a)
    with pytest.raises(RightRefused):
        await bench.rights.issue(bench.instance, to=b, operation=new_id())
    await bench.rights.surrender(bench.instance, by=a, epoch=1)
    await bench.rights.surrender(bench.instance, by=a, epoch=1)  # repeated: no harm
    second = await bench.rights.issue(bench.instance, to=b, operation=new_id())
    assert second.epoch == 2
    with pytest.raises(RightRefused):
        await bench.rights.surrender(bench.instance, by=a, epoch=1)


async def test_whoever_waits_for_a_row_decides_by_the_clock_of_when_it_was_had(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that was stopped in the middle makes no expiry shorter that another one answered."""

    async def killed(*_: object) -> None:
        """Before it could make good for a slow commit."""

    monkeypatch.setattr(bench.rights, "_count_from_commit", killed)
    a, operation = new_id(), new_id()
    first = await bench.rights.issue(bench.instance, to=a, operation=operation)
    async with bench.store.write() as session:
        row = await session.get_one(Right, bench.instance, with_for_update=True)
        late = asyncio.create_task(bench.rights.issue(bench.instance, to=a, operation=operation))
        await waits(bench, late)
        bench.clock.ahead_s += 1000  # meanwhile its holder was answered, again and again
        row.expires_at = renewed = row.expires_at + 1000
    assert await late == first
    async with bench.store.read() as session:
        assert (await session.get_one(Right, bench.instance)).expires_at >= renewed


async def waits(bench: Bench, late: asyncio.Task[RunRight]) -> None:
    """Until it stands before the lock."""
    if bench.store.sqlite:
        await asyncio.sleep(0)  # it takes the store's turn as its first act
        return
    blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with asyncio.timeout(10):
        while True:
            async with bench.store.read() as session:
                if await session.scalar(blocked):
                    return
            assert not late.done()
            await asyncio.sleep(0.02)  # a lock that is waited for tells nobody


async def test_unknown_instance_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.rights.standing(new_id())
    with pytest.raises(NotFound):
        await bench.rights.issue(new_id(), to=new_id(), operation=new_id())


async def test_a_right_is_free_only_after_length_and_margin(bench: Bench) -> None:
    a, b = new_id(), new_id()
    await bench.rights.issue(bench.instance, to=a, operation=new_id())
    bench.clock.ahead_s += TERMS.length_s + TERMS.margin_s - 1
    with pytest.raises(RightRefused):
        await bench.rights.issue(bench.instance, to=b, operation=new_id())
    standing = await bench.rights.standing(bench.instance)
    assert standing.free_in_s is not None and 0 < standing.free_in_s < 5
    bench.clock.ahead_s += 5
    assert (await bench.rights.standing(bench.instance)).free_in_s == 0
    assert (await bench.rights.issue(bench.instance, to=b, operation=new_id())).epoch == 2


async def test_an_answer_repeated_late_holds_the_instance_for_a_full_length_again(bench: Bench) -> None:
    a, b, operation = new_id(), new_id(), new_id()
    first = await bench.rights.issue(bench.instance, to=a, operation=operation)
    bench.clock.ahead_s += TERMS.length_s
    again = await bench.rights.issue(bench.instance, to=a, operation=operation)
    assert again == first
    bench.clock.ahead_s += TERMS.length_s  # the holder may still run: it counts from the second answer
    with pytest.raises(RightRefused):
        await bench.rights.issue(bench.instance, to=b, operation=new_id())


async def test_hold_is_never_free_by_time(bench: Bench) -> None:
    instance, a = await bench.add(hold=True), new_id()
    assert (await bench.rights.issue(instance, to=a, operation=new_id())).hold
    bench.clock.ahead_s += 10 * TERMS.length_s
    assert (await bench.rights.standing(instance)).free_in_s is None
    with pytest.raises(RightRefused):
        await bench.rights.issue(instance, to=new_id(), operation=new_id())


async def test_renewal_consumes_nonces_and_finds_clones(bench: Bench) -> None:
    a = new_id()
    right = await bench.rights.issue(bench.instance, to=a, operation=new_id())
    request = ask(right)
    (first,) = await bench.rights.renew(by=a, renewals=[request])
    (repeat,) = await bench.rights.renew(by=a, renewals=[request])
    assert first.right is not None and first == repeat and first.right.nonce != right.nonce
    (clone,) = await bench.rights.renew(by=a, renewals=[ask(right)])
    assert clone.refused == "cloned"
    (stranger,) = await bench.rights.renew(by=new_id(), renewals=[ask(first.right)])
    assert stranger.refused == "right-refused"


async def test_many_renewals_are_answered_in_the_order_asked(bench: Bench) -> None:
    a, instances = new_id(), [await bench.add() for _ in range(5)]
    rights = [await bench.rights.issue(one, to=a, operation=new_id()) for one in instances]
    unknown = Renewal(instance=new_id(), epoch=1, nonce=secrets.token_hex(16), request=secrets.token_hex(16))
    asked = [ask(right) for right in rights] + [unknown]
    answers = await bench.rights.renew(by=a, renewals=asked)
    assert [answer.instance for answer in answers] == [one.instance for one in asked]
    assert all(answer.right for answer in answers[:-1]) and answers[-1].refused == "not-found"


async def test_an_expired_right_that_nobody_took_goes_on(bench: Bench) -> None:
    a = new_id()
    right = await bench.rights.issue(bench.instance, to=a, operation=new_id())
    bench.clock.ahead_s += 5 * TERMS.length_s
    (answer,) = await bench.rights.renew(by=a, renewals=[ask(right)])
    assert answer.right is not None and answer.right.epoch == right.epoch


async def migrating(bench: Bench) -> tuple[str, str, str]:
    source, target, operation = new_id(), new_id(), new_id()
    await bench.rights.issue(bench.instance, to=source, operation=new_id())
    opened = await bench.rights.open_migration(
        operation, instance=bench.instance, source=source, target=target
    )
    assert opened.verdict is Verdict.OPEN
    return source, target, operation


async def test_commit_moves_the_epoch_once(bench: Bench) -> None:
    _, target, operation = await migrating(bench)
    decided = await bench.rights.commit(operation, source_gone=True)
    assert decided.verdict is Verdict.COMMITTED
    assert decided.right is not None and (decided.right.blanket, decided.right.epoch) == (target, 2)
    assert await bench.rights.commit(operation, source_gone=True) == decided
    assert (await bench.rights.abort(operation)).verdict is Verdict.COMMITTED
    assert (await bench.rights.cold_start(operation, source_gone=True)).verdict is Verdict.COMMITTED
    assert (await bench.rights.decision(operation)) == decided


async def test_commit_without_proof_waits_for_the_source(bench: Bench) -> None:
    source, _, operation = await migrating(bench)
    with pytest.raises(RightRefused):
        await bench.rights.commit(operation, source_gone=False)
    assert (await bench.rights.decision(operation)).verdict is Verdict.OPEN
    assert (await bench.rights.standing(bench.instance)).record.holder == source
    bench.clock.ahead_s += TERMS.length_s + TERMS.margin_s + 5
    assert (await bench.rights.commit(operation, source_gone=False)).verdict is Verdict.COMMITTED


async def test_abort_leaves_the_right_and_bars_commit(bench: Bench) -> None:
    source, _, operation = await migrating(bench)
    assert (await bench.rights.abort(operation)).verdict is Verdict.ABORTED
    assert (await bench.rights.commit(operation, source_gone=True)).verdict is Verdict.ABORTED
    standing = await bench.rights.standing(bench.instance)
    assert (standing.record.holder, standing.record.epoch) == (source, 1)


async def test_cold_start_is_the_sources_at_the_next_epoch(bench: Bench) -> None:
    source, _, operation = await migrating(bench)
    decided = await bench.rights.cold_start(operation, source_gone=True)
    assert decided.verdict is Verdict.COLD_STARTED and decided.right is not None
    assert (decided.right.blanket, decided.right.epoch) == (source, 2)


async def test_one_open_migration_and_only_by_the_holder(bench: Bench) -> None:
    source, target, operation = await migrating(bench)
    with pytest.raises(Conflict):
        await bench.rights.open_migration(new_id(), instance=bench.instance, source=source, target=target)
    await bench.rights.open_migration(operation, instance=bench.instance, source=source, target=target)
    await bench.rights.abort(operation)
    with pytest.raises(RightRefused):
        await bench.rights.open_migration(new_id(), instance=bench.instance, source=target, target=source)


async def test_commit_and_abort_race_for_one_outcome(bench: Bench) -> None:
    for _ in range(8):
        instance = await bench.add()
        source, target, operation = new_id(), new_id(), new_id()
        await bench.rights.issue(instance, to=source, operation=new_id())
        await bench.rights.open_migration(operation, instance=instance, source=source, target=target)
        decided = await asyncio.gather(
            bench.rights.commit(operation, source_gone=True),
            bench.rights.abort(operation),
            bench.rights.cold_start(operation, source_gone=True),
        )
        assert len({decision.verdict for decision in decided}) == 1
        epoch = (await bench.rights.standing(instance)).record.epoch
        assert epoch == (1 if decided[0].verdict is Verdict.ABORTED else 2)


async def test_many_ask_for_one_instance_and_one_gets_it(bench: Bench) -> None:
    asked = [bench.rights.issue(bench.instance, to=new_id(), operation=new_id()) for _ in range(8)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert len([one for one in answers if isinstance(one, RunRight)]) == 1
    assert all(isinstance(one, RunRight | RightRefused) for one in answers)


async def test_another_incarnation_holds_every_right_still(bench: Bench) -> None:
    a, other = new_id(), await bench.add()
    right = await bench.rights.issue(bench.instance, to=a, operation=new_id())
    (renewed,) = await bench.rights.renew(by=a, renewals=[ask(right)])
    assert renewed.right is not None
    bench.clock.incarnation = "/restored"
    with pytest.raises(RightRefused):
        await bench.rights.issue(other, to=a, operation=new_id())
    left_s = await bench.rights.quarantine_left_s()
    assert TERMS.length_s < left_s <= TERMS.length_s + TERMS.margin_s
    # The restored row may remember an older nonce than its holder: taken once, a second time it is a clone.
    lost = RunRight(
        instance=bench.instance, epoch=1, blanket=a, nonce=secrets.token_hex(16), length_s=60, grace_s=30
    )
    (healed,) = await bench.rights.renew(by=a, renewals=[ask(lost)])
    assert healed.right is not None
    (clone,) = await bench.rights.renew(by=a, renewals=[ask(lost)])
    assert clone.refused == "cloned"
    bench.clock.ahead_s += TERMS.length_s + TERMS.margin_s
    assert (await bench.rights.issue(other, to=a, operation=new_id())).epoch == 1


async def test_a_refusal_does_not_prolong_the_quarantine(bench: Bench) -> None:
    await bench.rights.quarantine_left_s()
    bench.clock.incarnation = "/restored"
    for _ in range(3):
        with pytest.raises(RightRefused):
            await bench.rights.issue(bench.instance, to=new_id(), operation=new_id())
        bench.clock.ahead_s += 30
    assert (await bench.rights.issue(bench.instance, to=new_id(), operation=new_id())).epoch == 1


async def test_after_a_restore_epochs_go_on_above_what_agents_report(bench: Bench) -> None:
    await bench.rights.quarantine_left_s()
    await bench.rights.heard({bench.instance: 7}, cloud=bench.cloud)
    assert (await bench.rights.standing(bench.instance)).record.epoch == 0, "only after a restore"
    bench.clock.incarnation = "/restored"
    await bench.rights.heard({bench.instance: 99}, cloud=new_id())
    await bench.rights.heard({bench.instance: 7}, cloud=bench.cloud)
    assert (await bench.rights.standing(bench.instance)).record.epoch == 7
    bench.clock.ahead_s += TERMS.length_s + TERMS.margin_s + 1
    assert (await bench.rights.issue(bench.instance, to=new_id(), operation=new_id())).epoch == 8


async def test_a_renewal_says_whether_a_migration_away_is_not_decided(bench: Bench) -> None:
    a, b, operation = new_id(), new_id(), new_id()
    right = await bench.rights.issue(bench.instance, to=a, operation=new_id())

    async def again(right: RunRight) -> RunRight:
        (answer,) = await bench.rights.renew(by=a, renewals=[ask(right)])
        assert answer.right is not None
        return answer.right

    right = await again(right)
    assert not right.contested
    await bench.rights.open_migration(operation, instance=bench.instance, source=a, target=b)
    right = await again(right)
    assert right.contested
    await bench.rights.abort(operation)
    assert not (await again(right)).contested
