"""Debian's Chromium against a control plane whose machines dial in, and what a person sees in it.

`SUPERCLOUD_PICTURES=docs/pictures` keeps the pictures that the documents show.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from api_rig import Served, Signing, served
from blanket_double import Double
from control_rig import World, furnish
from incident_rig import incident_event
from playwright.async_api import Browser, Page, async_playwright, expect
from web_rig import code

from supercloud.model.incidents import IncidentState
from supercloud.services import inbox
from supercloud.services.requests import AddBlanket, AddProvider

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
#: This machine may be busy with other things; nothing here waits for so long unless something is wrong.
_PATIENCE_MS = 120_000
#: Whatever is animated is noted, and that the page has begun to follow what changes.
_NOTING = """
    window.flights = [];
    addEventListener("htmx:afterSettle", () => document.documentElement.setAttribute("data-settled", ""));
    const animate = Element.prototype.animate;
    Element.prototype.animate = function (frames, ...rest) {
        window.flights.push({ tile: this.dataset.tile, frames: JSON.stringify(frames) });
        return animate.call(this, frames, ...rest);
    };
"""


@dataclass
class Window:
    """A page, and what its console complained of."""

    page: Page
    wrong: list[str] = field(default_factory=list)

    async def picture(self, name: str) -> None:
        if folder := os.environ.get("SUPERCLOUD_PICTURES"):
            await self.page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")

    async def open(self, url: str) -> None:
        """A page is there once it has come, and what follows changes in it has looked for the first time."""
        await self.page.goto(url)
        if await self.page.locator("#live").count():
            await expect(self.page.locator("html[data-settled]")).to_be_attached()

    async def flights(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = await self.page.evaluate("window.flights")
        return found


@dataclass
class Scene:
    """Two domains with a blanket in each, and a browser."""

    api: Served
    chromium: Browser
    north: Double
    south: Double

    @asynccontextmanager
    async def window(self, **options: Any) -> AsyncIterator[Window]:
        options = {"viewport": {"width": 1180, "height": 600}, "reduced_motion": "no-preference"} | options
        # As somebody who has compared the fingerprint and goes on.
        context = await self.chromium.new_context(ignore_https_errors=True, **options)
        context.set_default_timeout(_PATIENCE_MS)
        await context.add_init_script(_NOTING)
        page = await context.new_page()
        made = Window(page)
        page.on("pageerror", lambda error: made.wrong.append(str(error)))
        page.on("console", lambda said: said.type == "error" and made.wrong.append(said.text))
        try:
            yield made
        finally:
            await context.close()

    @asynccontextmanager
    async def signed_in(self, **options: Any) -> AsyncIterator[Window]:
        async with self.window(**options) as made:
            await self._sign_in(made, (await self.api.ok("web", "-o", "json")).json["url"], "operator")
            yield made

    @asynccontextmanager
    async def provider(self, signing: Signing, **options: Any) -> AsyncIterator[Window]:
        """Signed in as `acme`."""
        async with self.window(**options) as made:
            await self._sign_in(
                made, f"{self.origin}/web/sign-in?code={await code(self.api, signing)}", "acme"
            )
            yield made

    async def _sign_in(self, window: Window, url: str, name: str) -> None:
        await window.page.goto(url)
        await window.page.get_by_role("button", name=f"Sign in as {name}").click()
        await expect(window.page).to_have_url(f"{self.origin}/web/")

    @property
    def origin(self) -> str:
        return f"https://{self.api.access.host}:{self.api.access.port}"


@asynccontextmanager
async def staged(tmp_path: Path) -> AsyncIterator[Scene]:
    if not CHROMIUM.exists():
        pytest.fail("Chromium is missing: run `scripts/install-debian-packages`")
    expect.set_options(timeout=_PATIENCE_MS)
    world = World(f"sqlite:///{tmp_path / 'supercloud.db'}", tmp_path)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    try:
        async with (
            served(world, tmp_path / "h") as api,
            async_playwright() as playwright,
            await playwright.chromium.launch(
                executable_path=CHROMIUM, args=sandbox, timeout=_PATIENCE_MS
            ) as chromium,
        ):
            await furnish(api.bench, world.keys)
            control = api.bench.control
            await control.remove_provider("p")
            for name in ("bavaria", "provence"):
                await control.add_provider(AddProvider(name=name, kind="simulated"))
            north, south = [await blanket(api, *one) for one in (("north", "bavaria"), ("south", "provence"))]
            yield Scene(api, chromium, north, south)
    finally:
        await world.close()
        shutil.rmtree(tmp_path / "machines", ignore_errors=True)


async def blanket(api: Served, name: str, provider: str) -> Double:
    asked = await api.bench.control.add_blanket(AddBlanket(name=name, cloud="c", provider=provider))
    return api.bench.site.machines[(await api.bench.done(asked)).object]


def cell(page: Page, layer: int, domain: int) -> Any:
    """Of the two-dimensional view: L2 is the first row, `bavaria` the first column."""
    return page.locator("table.grid tbody tr").nth(2 - layer).locator("td").nth(domain)


async def look(scene: Scene, window: Window, paths: list[str]) -> None:
    """Each page, with axe; and whether it has to be scrolled sideways, if the screen is a phone's."""
    page = window.page
    width = page.viewport_size["width"] if page.viewport_size else 0
    for path in paths:
        await window.open(f"{scene.origin}/web/{path}")
        if path.endswith("/console"):
            await expect(page.locator("#link")).to_have_text("connected")
        assert await violations(page) == [], path
        if width < 700:
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, path


async def violations(page: Page) -> list[str]:
    await page.evaluate(AXE.read_text() + ";undefined")
    found = await page.evaluate("axe.run()")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


async def incident(scene: Scene, own: str, instance: str, *, rule: str = "port-scan", **more: Any) -> None:
    """As north's loop tells it."""
    bench, blanket = scene.api.bench, scene.north.birth.blanket
    cloud = (await bench.control.cloud("c")).id
    values = {"state": IncidentState.ESCALATED, "instance": instance} | more
    told = incident_event(own, cloud=cloud, blanket=blanket, **values)
    told.data["incident"]["seen"][0]["rule"] = rule
    await inbox.take(bench.parts.store, blanket, cloud, [told], at=time.time())
