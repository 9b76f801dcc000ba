"""An instance's page about its memory: scans, what is kept, and the incidents before it."""

from __future__ import annotations

import json
import time
from typing import Any

import actuator_checks as checks
import pytest
from api_rig import Served, Signing
from blanket_double import Double
from incident_rig import incident_event
from web_rig import Browser, links, signed_in

from supercloud.model.errors import Refused
from supercloud.model.findings import Severity
from supercloud.model.names import new_id
from supercloud.model.permissions import Permission
from supercloud.model.reactions import Deed
from supercloud.ports.controller import Event
from supercloud.ports.scans import SCANNED
from supercloud.security.terms import RuleSet
from supercloud.services import inbox
from supercloud.services.policy_views import SetPolicy
from supercloud.trust.tokens import Bounds, attenuate
from supercloud.wire.codec import to_json

pytestmark = pytest.mark.contract
YARA = "rule marked { condition: false }"
KEEPS = {
    "version": 1,
    "policies": {"keep-it": {"when": {"rule": "*"}, "do": [{"action": "copy", "target": "memory"}]}},
}


def _double(cloud: Served) -> Double:
    (double,) = cloud.bench.site.machines.values()
    return double


async def _tell(cloud: Served, own: str, rule: str, **more: Any) -> None:
    """As the loop of north does, about its instance."""
    control = cloud.bench.control
    north, instance = await control.blanket("north"), await control.instance("web")
    told = incident_event(own, cloud=north.cloud_id, blanket=north.id, instance=instance.id, **more)
    told.data["incident"]["seen"][0]["rule"] = rule
    await inbox.take(cloud.bench.parts.store, north.id, north.cloud_id, [told], at=time.time())


async def _page(cloud: Served, one: Browser) -> Any:
    answer = await one.get(f"/web/instances/{(await cloud.bench.control.instance('web')).id}")
    assert answer.status_code == 200
    return answer


async def test_whether_it_is_scanned_and_what_matched(cloud: Served) -> None:
    async with signed_in(cloud) as one:
        page = await _page(cloud, one)
        assert "It is not scanned: its blanket north has no YARA rules" in page.text
        assert "No scan has told of anything." in page.text
        rules = json.dumps(to_json(RuleSet, RuleSet(yara=YARA)))
        await cloud.bench.control.set_policy("north", SetPolicy(policy=json.dumps(KEEPS), rules=rules))
        assert "Its blanket north scans it by its YARA rules" in (await _page(cloud, one)).text
        await _tell(cloud, new_id(), "yara:marked", title="YARA rule marked matches in its memory")
        await _tell(cloud, new_id(), "cannot-scan", title="Its memory could not be scanned: time")
        await _tell(cloud, new_id(), "port-scan")
        page = await _page(cloud, one)
        for said in (">marked<", "a scan failed", "YARA rule marked matches in its memory", "port-scan"):
            assert said in page.text, said
        assert "kind=incident" in page.text, "it follows what is found"
        told = await cloud.bench.control.incidents()
        assert {f"/web/incidents/{each.id}" for each in told} <= links(page)
        assert {each.rules for each in told} == {("yara:marked",), ("cannot-scan",), ("port-scan",)}
        assert {each.severity for each in told} == {Severity.HIGH}


async def test_what_is_kept_of_it_and_by_which_policy(cloud: Served) -> None:
    double = _double(cloud)
    async with signed_in(cloud) as one:
        assert "No policy of its blanket north keeps any" in (await _page(cloud, one)).text
        await cloud.bench.control.set_policy("north", SetPolicy(policy=json.dumps(KEEPS)))
        page = await _page(cloud, one)
        assert "north keeps it by policy, as it reacts: keep-it." in page.text
        assert "Its blanket north keeps nothing of it." in page.text
        await _tell(cloud, double.incident, "port-scan")
        mine, others = checks.command(Deed.KEEP, 1), checks.command(Deed.KEEP, 2)
        instance = (await cloud.bench.control.instance("web")).id
        mine = checks.command(Deed.KEEP, 1, about=instance)
        for each in (mine, others):
            await double.evidence.do(each)
        page = await _page(cloud, one)
        assert f"/web/evidence/{mine.id}" in links(page)
        assert f"/web/evidence/{others.id}" not in links(page), "it is of another instance"
        listed = await one.get("/web/evidence")
        assert {f"/web/evidence/{each.id}" for each in (mine, others)} <= links(listed)


async def test_a_token_that_reads_instances_alone_is_shown_nothing_of_it(cloud: Served) -> None:
    await _tell(cloud, _double(cloud).incident, "yara:marked")
    sign = cloud.sign()
    only = attenuate(sign.token, Bounds(only=frozenset({Permission.VM_READ, Permission.WEB_SIGN_IN})))
    async with signed_in(cloud, Signing(sign.key, only, cloud.channel)) as one:
        page = await _page(cloud, one)
        assert ">marked<" not in page.text and "Its blanket north scans" not in page.text
        assert (await one.get("/web/evidence")).status_code == 403
        assert "/web/evidence" not in links(page)


async def test_its_page_is_there_though_its_blanket_is_away(cloud: Served) -> None:
    await _double(cloud).end()
    await cloud.bench.gone("north")
    async with signed_in(cloud) as one:
        page = await _page(cloud, one)
        assert "Whether it is scanned is not known" in page.text and "Not known: " in page.text
        assert "History" in page.text


async def _ended(cloud: Served, scan: str, **said: Any) -> None:
    """As its agent reports it."""
    north, instance = await cloud.bench.control.blanket("north"), await cloud.bench.control.instance("web")
    data = {"instance": instance.id, "scan": scan, "matched": 0, "why": ""} | said
    event = Event(id=scan, seq=1, kind=SCANNED, at=time.time(), data=data)
    await inbox.take(cloud.bench.parts.store, north.id, north.cloud_id, [event], at=time.time())


async def test_a_scan_is_asked_for_and_how_it_ended_is_seen(cloud: Served) -> None:
    scans = _double(cloud).scans
    path = f"/web/instances/{(await cloud.bench.control.instance('web')).id}"
    async with signed_in(cloud) as one:
        page = await one.get(path)
        assert f'action="{path}/scan"' in page.text and "kind=report" in page.text, "it follows what is told"
        assert (await one.post(f"{path}/scan", {"csrf": "0" * 64})).status_code == 403
        assert (await one.post(f"{path}/scan", None, {"Origin": "https://evil.example"})).status_code == 403
        scans.refuses = Refused("this blanket has no YARA rules", hint="supercloud policy set --yara")
        refused = await one.post(f"{path}/scan")
        assert refused.status_code == 409 and 'role="alert"' in refused.text
        assert "this blanket has no YARA rules" in refused.text and "policy set --yara" in refused.text
        assert not scans.asked and "under way" not in refused.text
        scans.refuses = None
        ends: tuple[tuple[dict[str, Any], str], ...] = (
            ({}, "nothing matched"),
            ({"matched": 2}, "rules that matched: 2"),
            ({"why": "it takes too long"}, "failed: it takes too long"),
        )
        for said, shown in ends:
            assert (await one.post(f"{path}/scan")).headers["location"] == path
            page = await one.get(path)
            assert "under way" in page.text and "principal " in page.text, "by whom"
            await _ended(cloud, scans.asked[-1].scan, **said)
            page = await one.get(path)
            assert shown in page.text and "under way" not in page.text
        assert {each.instance for each in scans.asked} == {path.rpartition("/")[2]}
        await cloud.bench.done(await cloud.bench.control.stop_instance("web"))
        assert f"{path}/scan" not in (await one.get(path)).text, "what does not run has no memory"
