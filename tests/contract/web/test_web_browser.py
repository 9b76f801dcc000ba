"""The web view as people have it: in a browser (browser_rig)."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from api_rig import Signing
from browser_rig import Scene, Window, blanket, cell, incident, look, violations
from control_rig import arrived
from playwright.async_api import Page, expect

from supercloud.model.domains import Capacity
from supercloud.model.incidents import IncidentState
from supercloud.model.names import new_id
from supercloud.model.placement import Price
from supercloud.services.caller import Caller
from supercloud.services.requests import AddPrincipal, MintToken
from supercloud.services.southbound import PlanWindow, RegisterDomain
from supercloud.trust.keys import IdentityKey

pytestmark = [pytest.mark.contract, pytest.mark.timeout(600)]
_ACROSS = re.compile(r"translate\((-?[0-9.]+)px")


async def test_a_life(scene: Scene) -> None:
    """Signing in, running, a console, a live migration that is seen, signing out."""
    for name, on in (("db", "north"), ("mail", "south")):
        await scene.api.bench.run(name, on=on)
    async with scene.signed_in() as window, scene.signed_in(reduced_motion="reduce") as still:
        page = window.page
        await expect(cell(page, 0, 0)).to_contain_text("offered")
        await expect(cell(page, 1, 1)).to_contain_text("south")

        await page.get_by_role("link", name="Instances").click()
        await page.get_by_role("link", name="Run an instance").click()
        await page.get_by_label("Name").fill("web")
        await page.get_by_label("Blanket").select_option(label="north")
        await page.get_by_role("checkbox", name="lan").check()
        await page.get_by_role("button", name="Run").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("instance.run of web")
        await expect(page.locator("dl.facts .state")).to_have_text("succeeded")
        await page.locator("dl.facts").get_by_role("link", name="web").click()
        await expect(page.locator("dl.facts .state")).to_have_text("running")
        await window.picture("web-instance")

        await page.get_by_role("link", name="Console").click()
        await expect(page.locator("#link")).to_have_text("connected")
        await page.keyboard.type("hello ")
        await page.keyboard.press("Control+[")  # the double says what it hears: colours, too
        await page.keyboard.type("[38;2;255;120;0mworld")
        await expect(page.locator(".xterm-rows")).to_contain_text("hello")
        await expect(page.locator(".xterm-rows")).to_contain_text("world")
        world = page.locator(".xterm-rows span").filter(has_text="world")
        assert await world.evaluate("one => getComputedStyle(one).color") == "rgb(255, 120, 0)"
        await window.picture("web-console")

        await page.goto(f"{scene.origin}/web/")
        await _migrates(scene, window, still)
        assert window.wrong == still.wrong == []

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        await page.goto(f"{scene.origin}/web/instances")
        await expect(page).to_have_url(f"{scene.origin}/web/sign-in")


async def _migrates(scene: Scene, window: Window, still: Window) -> None:
    """Nobody touches the two windows meanwhile."""
    bench = scene.api.bench
    instance = (await bench.control.instance("web")).id
    here, there = cell(window.page, 2, 0), cell(window.page, 2, 1)
    await expect(here).to_contain_text("running")
    await expect(there).not_to_contain_text("web")
    bench.site.hold_transfers = True
    view = await bench.control.migrate_instance("web", to="south")
    await expect(here).to_contain_text("to south: transfer")
    await expect(there).to_contain_text("arriving")
    await expect(here.get_by_role("progressbar")).to_be_visible()
    await expect(there.get_by_role("progressbar")).to_be_visible()
    await expect(window.page.get_by_role("status")).to_contain_text("web: moving from north to south")
    await expect(window.page.get_by_role("region", name="Operations under way")).to_contain_text(
        "instance.migrate"
    )
    await window.picture("web-layers")
    assert not await _crossings(window, instance)
    arrived(scene.north, scene.south, instance)
    await bench.done(view)
    for page in (window.page, still.page):
        await expect(cell(page, 2, 1)).to_contain_text("running")
        await expect(cell(page, 2, 0)).not_to_contain_text("web")
    assert len(await _crossings(window, instance)) == 1, "the change of cell is animated"
    assert await still.flights() == [], "but for who wants no motion"


async def _crossings(window: Window, instance: str) -> list[str]:
    """How it was seen going from one column to another."""
    flown = [one["frames"] for one in await window.flights() if one["tile"] == f"i-{instance}"]
    return [one for one in flown if abs(float((_ACROSS.search(one) or [0, "0"])[1])) > 300]


async def test_with_the_keyboard_alone(scene: Scene) -> None:
    await scene.api.bench.run(on="north")
    async with scene.window() as window:
        page, keys = window.page, window.page.keyboard
        await page.goto((await scene.api.ok("web", "-o", "json")).json["url"])
        # Chromium gives the focus that a page asks for when it first paints, which may be after its load.
        await expect(page.get_by_role("button", name="Sign in as operator")).to_be_focused()
        await keys.press("Enter")
        await expect(page).to_have_url(f"{scene.origin}/web/")
        await keys.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        await keys.press("Enter")
        await _tab_to(page, "web")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) == "solid", "where the focus is, is seen"
        await keys.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("web")
        await _tab_to(page, "Console")
        await keys.press("Enter")
        await expect(page.locator("#link")).to_have_text("connected")
        await keys.type("typed")
        await expect(page.locator(".xterm-rows")).to_contain_text("typed")
        await keys.press("Control+]")
        await expect(page.get_by_role("link", name="Leave")).to_be_focused()
        await keys.press("Enter")
        await expect(page.get_by_role("link", name="Migrate")).to_be_visible()
        await _tab_to(page, "Migrate")
        await keys.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Migrate instance web of cloud c")
        await _tab_to(page, "Migrate")
        await keys.press("Enter")
        await expect(page.get_by_role("link", name="south", exact=True)).to_be_visible()
        await expect(page.locator("dl.facts .state")).to_have_text("running")
        assert window.wrong == []


async def _tab_to(page: Page, text: str) -> None:
    """From where the focus is, forwards. What is under it stays while the page follows changes."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent.trim()") == text:
            return
    raise AssertionError(f"{text} is not reached")


async def test_what_is_taken_away_is_named_first_without_a_script_too(scene: Scene) -> None:
    for scripts in (True, False):
        async with scene.signed_in(java_script_enabled=scripts) as window:
            page = window.page
            await page.goto(f"{scene.origin}/web/volumes")
            await page.get_by_role("link", name="Create a volume").click()
            await page.get_by_label("Name").fill("data")
            await page.get_by_label("Security level").select_option("baseline")
            await page.get_by_role("button", name="Create").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("data")
            await expect(page.locator("dl.facts")).to_contain_text("baseline")
            await page.get_by_role("link", name="Remove").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Remove volume data of cloud c")
            await page.get_by_role("link", name="Leave it").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("data")
            await page.get_by_role("link", name="Remove").click()
            await page.get_by_role("button", name="Remove volume data").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("volume.remove of data")
            operation = (await scene.api.bench.control.operations(kind="volume.remove"))[0]
            await scene.api.bench.done(operation)
            assert not await scene.api.bench.control.volumes() and window.wrong == []


async def test_a_level_is_raised(scene: Scene) -> None:
    await scene.api.bench.run(on="north")
    async with scene.signed_in() as window:
        page = window.page
        await expect(cell(page, 2, 0)).to_contain_text("open")
        await expect(cell(page, 1, 0)).to_contain_text("up to")
        await page.get_by_role("link", name="web", exact=True).click()
        await page.get_by_role("link", name="Security level").click()
        await page.get_by_label("From now on").select_option("isolated")
        await page.get_by_role("button", name="Change").click()
        await expect(page.get_by_role("status").first).to_contain_text("is isolated, and was open")
        await window.picture("web-level")
        await page.goto(f"{scene.origin}/web/")
        await expect(cell(page, 2, 0)).to_contain_text("isolated")
        assert window.wrong == []


async def _provider(scene: Scene) -> Signing:
    """With a domain, and two machines in it that a user rents; something is in one of them."""
    control, key = scene.api.bench.control, IdentityKey.new()
    principal = await control.add_principal(AddPrincipal(name="acme", key=key.name, provider=True))
    caller = Caller(principal=principal.id, operator=False, undivided=True, revocation_ids=(), clouds=())
    south = control.on_behalf_of(caller).southbound()
    price, capacity = Price(currency="EUR", vcpu_hour="0.012"), Capacity(machines=8, memory_mib=32 << 10)
    for name, location in (("alps", "ch-vs"), ("jura", "ch-ju")):
        request = RegisterDomain(
            name=name, kind="simulated", location=location, price=price, capacity=capacity
        )
        await south.register_domain(request)
        await control.accept_provider(name)
    for name, domain in (("zebra-one", "alps"), ("zebra-two", "alps"), ("zebra-three", "jura")):
        await blanket(scene.api, name, domain)
    await scene.api.bench.run("zebra-web", on="zebra-one")
    return Signing(key, (await control.mint_token(MintToken(principal="acme"))).token, scene.api.channel)


async def test_an_incident_lights_up(scene: Scene) -> None:
    """As it happens, in the cell of what it is about; and goes out as it is closed."""
    instance = await scene.api.bench.run("web", on="north")
    own = new_id()
    await incident(scene, own, instance)
    async with scene.signed_in() as window:
        page = window.page
        lit = page.locator(".tile.alarmed")
        await expect(cell(page, 2, 0).locator(".tile.alarmed")).to_contain_text("1 incident: escalated")
        await expect(lit).to_have_count(1)
        assert await violations(page) == []
        await window.picture("web-incident-grid")
        await page.get_by_role("link", name="1 incident: escalated").click()
        await expect(page.get_by_role("region", name="Timeline")).to_contain_text("Scan for open ports")
        await expect(page.get_by_role("region", name="Reactions")).to_contain_text("contain:device")
        assert await violations(page) == []
        await window.picture("web-incident")
        await page.get_by_role("link", name="Close").click()
        await page.get_by_label("undo what is in force").check()
        await page.get_by_role("button", name="Close").click()
        await expect(page.get_by_role("region", name="Timeline")).to_be_visible()
        assert scene.north.loop.closed[0].undo
        await window.open(f"{scene.origin}/web/")
        await incident(scene, own, instance, version=2, state=IncidentState.CLOSED, closed_at=time.time())
        await expect(lit).to_have_count(0)
        await incident(scene, new_id(), instance, state=IncidentState.OPEN)
        await expect(lit).to_have_count(1)
        await expect(page.get_by_role("status")).to_contain_text("web: running, 1 incident: open")
        assert window.wrong == []


async def test_a_provider(scene: Scene) -> None:
    """It sees its machines, plans, drains and opens again; and sees that happen."""
    signing = await _provider(scene)
    async with scene.provider(signing) as window:
        page = window.page
        machines = page.locator("table.grid tbody tr").nth(0).locator("td").nth(0)
        platform = page.locator("table.grid tbody tr").nth(1).locator("td").nth(0)
        await expect(machines.locator(".tile")).to_have_count(2)
        await expect(machines).to_contain_text("in use")
        await expect(platform).to_contain_text("offered")

        await page.get_by_role("link", name="alps").first.click()
        await page.get_by_role("link", name="Plan maintenance").click()
        begins = datetime.now(UTC) + timedelta(days=2)
        await page.get_by_label("Begins").fill(begins.strftime("%Y-%m-%dT%H:%M"))
        await page.get_by_label("Ends").fill((begins + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M"))
        await page.get_by_label("minutes ahead").fill("30")
        await page.get_by_label("Reason").fill("new disks")
        await page.get_by_role("button", name="Plan maintenance").click()
        await expect(page.get_by_role("region", name="Windows of maintenance")).to_contain_text("new disks")
        await window.picture("web-provider-domain")

        await page.goto(f"{scene.origin}/web/")
        await expect(page.get_by_role("region", name="Windows of maintenance")).to_contain_text("planned")
        await window.picture("web-provider")
        scene.api.bench.site.hold_transfers = True
        await scene.api.bench.control.southbound().drain_domain("alps")
        await expect(platform).to_contain_text("draining")
        await expect(page.get_by_role("region", name="Drains")).to_contain_text("drain of alps")
        await expect(page.get_by_role("status")).to_contain_text("alps: draining")
        await page.get_by_role("link", name="alps", exact=True).first.click()
        await page.get_by_role("button", name="Undrain").click()
        await expect(page.get_by_role("button", name="Drain", exact=True)).to_be_visible()
        await expect(page.get_by_role("region", name="Drains")).to_contain_text("cancelled")
        assert "zebra" not in await page.content() and window.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_for_everybody(scene: Scene, scheme: str) -> None:
    """axe-core finds nothing, on a desk and on a phone; and nothing is wider than the phone."""
    bench = scene.api.bench
    await bench.run(on="north")
    bench.site.hold_transfers = True
    view = await bench.control.migrate_instance("web", to="south")
    instance = (await bench.control.instance("web")).id
    volume = (await bench.control.volume("web-root")).id
    of_it, volume = f"instances/{instance}", f"volumes/{volume}"
    paths = [
        "", "instances", of_it, f"operations/{view.id}", "new/instances", "clouds", "providers", "trust",
        f"{of_it}/level?as_if=isolated", f"{of_it}/remove", f"{of_it}/stop", volume, f"{volume}/resize",
        "new/trust?cloud=c", "new/clouds", "incidents", "principals", "principals/operator", "tokens",
    ]  # fmt: skip
    async with scene.signed_in(color_scheme=scheme) as window:
        page = window.page
        await look(scene, window, [*paths, f"instances/{instance}/console", "instances/nosuch"])
        if scheme == "dark":
            await window.open(f"{scene.origin}/web/")
            await expect(cell(page, 2, 1)).to_contain_text("arriving")
            await window.picture("web-dark")
        await page.set_viewport_size({"width": 320, "height": 640})
        if scheme == "light":
            await window.open(f"{scene.origin}/web/")
            await window.picture("web-phone")
        await look(scene, window, paths)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_for_every_provider(scene: Scene, scheme: str) -> None:
    signing = await _provider(scene)
    south = scene.api.bench.control.southbound()
    domain = (await south.domain("alps")).id
    at = time.time() + 9000
    window_ = await south.plan_window(PlanWindow(domain="alps", begins_at=at, ends_at=at + 60))
    drain = await south.drain_domain("jura")
    paths = [
        "", "domains", f"domains/{domain}", f"domains/{domain}/health", f"domains/{domain}/set",
        f"domains/{domain}/plan", f"domains/{domain}/remove", "windows", f"windows/{window_.id}",
        f"windows/{window_.id}/cancel", "drains", f"drains/{drain.id}", "new/domains", "instances",
    ]  # fmt: skip
    async with scene.provider(signing, color_scheme=scheme) as window:
        await look(scene, window, paths)
        await window.page.set_viewport_size({"width": 320, "height": 640})
        await look(scene, window, paths)
