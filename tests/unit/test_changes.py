"""When the agent looks at an instance that somebody waits for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from supercloud.agent import changes
from supercloud.agent.changes import Changes
from supercloud.blanket.domain_xml import domain_name
from supercloud.blanket.libvirt import hypervisor
from supercloud.model.names import new_id
from supercloud.ports.hypervisor import DomainEvent

INSTANCE, OTHER = "i", "j"


class Looks:
    """Counts looks; the answer is how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self.looked = asyncio.Event()

    async def __call__(self) -> int:
        self.count += 1
        self.looked.set()
        return self.count


async def _waiting(on: Changes, looks: Looks, *, good: int, seconds: float = 60.0) -> asyncio.Task[int]:
    task = asyncio.create_task(on.until(INSTANCE, looks, lambda seen: seen >= good, seconds=seconds))
    await looks.looked.wait()
    return task


async def test_a_change_has_it_looked_at_at_once() -> None:
    on, looks = Changes(), Looks()
    task = await _waiting(on, looks, good=2)
    on.changed(OTHER)
    on.changed(INSTANCE)
    assert await asyncio.wait_for(task, 1) == 2


async def test_a_look_that_is_stale_before_it_ends_is_given_up() -> None:
    on, asked = Changes(), asyncio.Event()
    looks = 0

    async def look() -> int:
        nonlocal looks
        looks += 1
        if looks == 1:  # of a process that is being ended, of which nobody says anything until it has ended
            asked.set()
            await asyncio.Event().wait()
        return looks

    task = asyncio.create_task(on.until(INSTANCE, look, lambda _: True, seconds=0.0))
    await asked.wait()
    on.changed(INSTANCE)
    assert await asyncio.wait_for(task, 5) == 2


async def test_what_leaves_is_not_looked_at_until_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_LOOK_S", 0.01)
    monkeypatch.setattr(changes, "_REST_S", 60.0)
    on, looks = Changes(), Looks()
    on.pause_s = 0.01
    task = await _waiting(on, looks, good=10_000)
    on.rest(INSTANCE)
    before = looks.count
    late = asyncio.create_task(on.until(INSTANCE, looks, lambda _: True, seconds=60.0))
    await asyncio.wait({task, late}, timeout=0.2)
    assert looks.count <= before + 1 and not late.done(), "one may have been on its way"
    on.changed(INSTANCE)
    assert await asyncio.wait_for(late, 1) > before
    task.cancel()


async def test_a_rest_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_REST_S", 0.05)
    on, looks = Changes(), Looks()
    on.rest(INSTANCE)
    assert await asyncio.wait_for(on.until(INSTANCE, looks, lambda _: True, seconds=0.0), 5) == 1


async def test_what_it_sees_in_the_end_is_the_answer() -> None:
    on, looks = Changes(), Looks()
    assert await on.until(INSTANCE, looks, lambda _: False, seconds=0.0) == 1


#: libvirt's own numbers: virDomainEventType and the details of each, fixed by its ABI.
_LIBVIRT = SimpleNamespace(
    VIR_DOMAIN_EVENT_STARTED=2,
    VIR_DOMAIN_EVENT_STARTED_MIGRATED=1,
    VIR_DOMAIN_EVENT_SUSPENDED=3,
    VIR_DOMAIN_EVENT_SUSPENDED_PAUSED=0,
    VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED=1,
    VIR_DOMAIN_EVENT_RESUMED=4,
    VIR_DOMAIN_EVENT_RESUMED_MIGRATED=1,
    VIR_DOMAIN_EVENT_STOPPED=5,
    VIR_DOMAIN_EVENT_STOPPED_MIGRATED=3,
)


@pytest.mark.parametrize(
    ("event", "detail", "leaving", "paused"),
    [
        (3, 1, True, False),
        (3, 0, False, True),
        (4, 1, False, False),
        (5, 3, False, False),
        (2, 1, False, False),
    ],
    ids=["sent", "paused", "goes on after all", "gone", "arrives"],
)
def test_what_stands_still_to_be_sent_is_leaving_and_what_somebody_wants_to_stand_still_is_paused(
    event: int, detail: int, leaving: bool, paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "bindings", lambda: _LIBVIRT)
    told: list[DomainEvent] = []
    one = hypervisor.Lifecycle.__new__(hypervisor.Lifecycle)
    monkeypatch.setattr(one, "_post", told.append, raising=False)
    one._lifecycle(domain_name(new_id()), event, detail)
    assert [(said.leaving, said.paused) for said in told] == [(leaving, paused)]
