"""Every page, of whatever there is and whatever others wrote."""

from __future__ import annotations

import asyncio
import time

import actuator_checks as checks
import pytest
from api_rig import Served
from control_rig import World, furnish, share_with, transferring
from incident_rig import incident_event
from provider_rig import told_about
from sqlalchemy import update
from web_rig import HOSTILE, crawled, links, signed_in, well_formed

from supercloud.model.reactions import Deed
from supercloud.model.states import OperationState
from supercloud.services import inbox
from supercloud.services.requests import AddPrincipal
from supercloud.services.southbound import PlanWindow
from supercloud.services.store.tables import Blanket, Maintenance, Operation
from supercloud.trust.keys import IdentityKey
from supercloud.web.kinds import KINDS
from supercloud.web.making import MAKINGS

pytestmark = pytest.mark.contract


async def test_every_page_of_an_empty_control_plane(api: Served) -> None:
    async with signed_in(api) as one:
        pages = await crawled(one)
        assert {"/web/", *(f"/web/{kind}" for kind in KINDS)} <= set(pages)
        assert {f"/web/new/{kind}" for kind in MAKINGS} <= set(pages)
        for path, page in pages.items():
            assert page.status_code == 200, path
            assert page.text.count("<h1>") == 1, path


async def test_every_page_of_a_full_one_with_whatever_is_said_in_it(cloud: Served) -> None:
    bench = cloud.bench
    await bench.control.add_principal(AddPrincipal(name="dave", key=IdentityKey.new().name))
    await share_with(bench, "dave")
    await told_about(bench.control, "north", (await bench.control.blanket("north")).id)
    await _incident(cloud, HOSTILE)
    at = time.time() + 9000
    south = bench.control.southbound()
    await south.plan_window(PlanWindow(domain="p", begins_at=at, ends_at=at + 60, drain_ahead_s=60))
    drain = await south.drain_domain("p")
    async with asyncio.timeout(40):
        while drain.ended_at is None:
            drain = await south.drain(drain.id, wait_s=10)
    async with cloud.bench.parts.store.write() as session:
        await session.execute(update(Blanket).values(reason=HOSTILE))
        await session.execute(update(Maintenance).values(reason=HOSTILE))
        error = {"code": "failed", "message": HOSTILE, "hint": HOSTILE}
        row = {"phase": HOSTILE, "object_name": HOSTILE, "error": error, "result": {HOSTILE: HOSTILE}}
        await session.execute(update(Operation).values(row))
    async with signed_in(cloud) as one:
        pages = await crawled(one)
        assert {path.split("/")[2] for path in pages if path.count("/") > 2} >= set(KINDS)
        for path, page in pages.items():
            assert page.status_code == 200, (path, page.text)
            well_formed(page.text, path)
        for path in ("/web/", "/web/windows", "/web/domains/p/health"):
            pages[path] = await one.get(path)
        assert "&lt;script&gt;" in pages["/web/"].text and "&lt;script&gt;" in pages["/web/windows"].text
        for path in (f"/web/{HOSTILE}", f"/web/instances/{HOSTILE}", f"/web/?cloud={HOSTILE}"):
            refused = await one.get(path)
            assert refused.status_code in {404, 405, 422}, path
            well_formed(refused.text, path)


async def _incident(served: Served, title: str) -> None:
    """As north's loop tells it, which keeps evidence of it."""
    north = await served.bench.control.blanket("north")
    double = served.bench.site.machines[north.id]
    told = incident_event(double.incident, cloud=north.cloud_id, blanket=north.id, title=title)
    await inbox.take(served.bench.parts.store, north.id, north.cloud_id, [told], at=time.time())
    await double.evidence.do(checks.command(Deed.KEEP))


async def test_a_list_that_is_long_goes_on(cloud: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from supercloud.web import views

    monkeypatch.setattr(views, "_LISTED", 1)
    await cloud.bench.run("other", on="north")
    async with signed_in(cloud) as one:
        first = await one.get("/web/instances")
        (more,) = [link for link in links(first) if "cursor=" in link]
        second = await one.get(more)
        assert ">other<" in first.text and ">web<" in second.text and ">other<" not in second.text
        assert (await one.get("/web/volumes?cursor=abc")).status_code == 422


async def test_a_migration_is_in_two_cells_and_can_be_cancelled(api: Served, world: World) -> None:
    await furnish(api.bench, world.keys)
    _, _, instance, view = await transferring(api.bench)
    async with signed_in(api) as one:
        grid = (await one.get("/web/")).text
        assert grid.count(f'data-tile="i-{instance}"') == grid.count(f'data-tile="i-{instance}-to"') == 1
        assert "moving from north to south" in grid and "transfer" in grid
        assert (await one.post(f"/web/operations/{view.id}/cancel")).status_code == 303
        await api.bench.done(view, OperationState.CANCELLED)
        grid = (await one.get("/web/")).text
        assert f"i-{instance}-to" not in grid and f'data-tile="i-{instance}"' in grid
