"""Evidence, scans and going back as people have them: in a browser (browser_rig)."""

from __future__ import annotations

import json
import time

import actuator_checks as checks
import pytest
from browser_rig import Scene, incident, look, violations
from playwright.async_api import expect

from supercloud.model.names import new_id
from supercloud.model.reactions import Command, Deed
from supercloud.ports.controller import Event
from supercloud.ports.scans import SCANNED
from supercloud.security.terms import RuleSet
from supercloud.services import inbox
from supercloud.services.policy_views import SetPolicy
from supercloud.wire.codec import to_json

pytestmark = [pytest.mark.contract, pytest.mark.timeout(600)]
_TALL = {"width": 1180, "height": 1330}
_POLICY = {
    "version": 1,
    "policies": {
        "keep-what-was-found": {
            "when": {"rule": "yara:*"},
            "do": [{"action": "stop", "target": "vcpus"}, {"action": "copy", "target": "memory"}],
        }
    },
}
_RULES = RuleSet(yara="rule crypto_miner { condition: false }")


async def _attacked(scene: Scene) -> tuple[str, Command]:
    """An instance with snapshots about which there is an incident with evidence, in a blanket that scans."""
    bench, north = scene.api.bench, scene.north
    instance = await bench.run("web", on="north")
    root = await bench.control.volume("web-root")
    for name in ("installed", "before-upgrade"):
        await bench.done(await bench.control.snapshot_volume(root.id, snapshot=name))
    policy = SetPolicy(policy=json.dumps(_POLICY), rules=json.dumps(to_json(RuleSet, _RULES)))
    await bench.control.set_policy("north", policy)
    title = "YARA rule crypto_miner matches in its memory"
    await incident(scene, north.incident, instance, title=title, rule="yara:crypto_miner")
    kept = checks.command(Deed.KEEP, about=instance)
    await north.evidence.do(kept)
    return instance, kept


async def _scanned(scene: Scene, instance: str) -> None:
    """As the agent reports it."""
    (asked,) = scene.north.scans.asked
    bench, blanket = scene.api.bench, scene.north.birth.blanket
    data = {"instance": instance, "scan": asked.scan, "matched": 1, "why": ""}
    told = Event(id=asked.scan, seq=1, kind=SCANNED, at=time.time(), data=data)
    cloud = (await bench.control.cloud("c")).id
    await inbox.take(bench.parts.store, blanket, cloud, [told], at=time.time())


async def test_a_scan_and_what_it_came_to_are_seen_as_they_happen(scene: Scene) -> None:
    instance, _ = await _attacked(scene)
    async with scene.signed_in(viewport=_TALL) as window:
        page = window.page
        await window.open(f"{scene.origin}/web/instances/{instance}")
        matches = page.get_by_role("region", name="What rules of YARA's matched")
        await expect(matches).to_contain_text("crypto_miner")
        await expect(page.get_by_role("region", name="What is kept")).to_contain_text("memory of web")
        await page.get_by_role("button", name="Scan memory").click()
        asked = page.get_by_role("region", name="Scans of its memory that were asked for")
        await expect(asked).to_contain_text("under way")
        await _scanned(scene, instance)
        await expect(asked).to_contain_text("rules that matched: 1")
        await expect(asked).not_to_contain_text("under way")
        title = "YARA rule xor_loader matches in its memory"
        await incident(scene, new_id(), instance, title=title, rule="yara:xor_loader")
        await expect(matches).to_contain_text("xor_loader")
        assert await violations(page) == [] and window.wrong == []
        await matches.scroll_into_view_if_needed()
        await window.picture("web-memory")


async def test_evidence_is_found_and_removed_with_the_keyboard(scene: Scene) -> None:
    _, kept = await _attacked(scene)
    async with scene.signed_in(viewport={"width": 1180, "height": 800}) as window:
        page, keys = window.page, window.page.keyboard
        await page.get_by_role("link", name="Incidents").click()
        await page.get_by_role("link", name="YARA rule crypto_miner").first.click()
        await (
            page.get_by_role("region", name="What is kept").get_by_role("link", name="memory of web").click()
        )
        heading = page.get_by_role("heading", level=1)
        await expect(heading).to_contain_text("memory of web, ")
        (there,) = await scene.north.evidence.list()
        assert there.digest is not None
        await expect(page.locator("dl.facts")).to_contain_text(there.digest)
        await expect(page.get_by_role("region", name="Commands")).to_contain_text(f"{kept.id} --to web-")
        await window.picture("web-evidence")
        await page.get_by_role("link", name="Remove").focus()
        await keys.press("Enter")
        await expect(heading).to_contain_text("Remove evidence memory of web")
        await expect(page.locator("main")).to_contain_text("there is no other copy")
        await page.get_by_role("button", name="Remove evidence").focus()
        await keys.press("Enter")
        await expect(heading).to_have_text("Evidence")
        await expect(page.locator("main")).to_contain_text("There are none.")
        assert not await scene.north.evidence.list() and window.wrong == []


async def test_a_volume_and_an_instance_go_back(scene: Scene) -> None:
    instance, _ = await _attacked(scene)
    async with scene.signed_in(viewport={"width": 1180, "height": 440}) as window:
        page = window.page
        root = (await scene.api.bench.control.volume("web-root")).id
        await window.open(f"{scene.origin}/web/volumes/{root}")
        await expect(page.get_by_role("region", name="Snapshots")).to_contain_text("before-upgrade")
        await page.get_by_role("link", name="Restore").click()
        await page.get_by_role("button", name="Restore volume web-root").click()
        await expect(page.get_by_role("alert")).to_contain_text("has volume web-root and is running")
        await expect(page.get_by_role("alert")).to_contain_text("supercloud vm restore web")
        await page.goto(f"{scene.origin}/web/instances/{instance}")
        await page.get_by_role("link", name="Restore").click()
        await expect(page.locator("main")).to_contain_text("is gone, for good")
        await expect(page.get_by_label("Back to")).to_have_value("before-upgrade")
        await window.picture("web-restore")
        await page.get_by_label("Back to").select_option(":image")
        await page.get_by_role("button", name="Restore instance web").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("instance.restore of web")
        await expect(page.locator("dl.facts .state")).to_have_text("succeeded")
        assert scene.north.restored == [(root, None)]
        await window.open(f"{scene.origin}/web/volumes/{root}")
        await expect(page.locator("main")).to_contain_text("it can go back to image debian")
        assert len(window.wrong) == 1 and "409" in window.wrong[0], "what was refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_for_everybody_too(scene: Scene, scheme: str) -> None:
    """axe-core finds nothing, on a desk and on a phone; and nothing is wider than the phone."""
    instance, kept = await _attacked(scene)
    (found,) = await scene.api.bench.control.incidents()
    root = (await scene.api.bench.control.volume("web-root")).id
    pieces = [f"evidence/{kept.id}", f"evidence/{kept.id}/remove", f"incidents/{found.id}"]
    of_it = [f"instances/{instance}", f"volumes/{root}"]
    paths = ["evidence", *pieces, *of_it, *(f"{one}/restore" for one in of_it)]
    async with scene.signed_in(color_scheme=scheme) as window:
        await look(scene, window, paths)
        await window.page.set_viewport_size({"width": 320, "height": 640})
        await look(scene, window, paths)
        assert window.wrong == []
