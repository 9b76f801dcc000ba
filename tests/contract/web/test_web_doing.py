"""What is made and done from the pages."""

from __future__ import annotations

import asyncio
import html
import re

import pytest
from api_rig import Served
from control_rig import share_with
from web_rig import Browser, links, person, signed_in

from supercloud.model.errors import NotFound
from supercloud.model.levels import Level, Thing
from supercloud.model.quota import Quota
from supercloud.model.trust import TrustState
from supercloud.services.level_views import SetLevel
from supercloud.services.requests import AddPrincipal, CreateNetwork, CreateVolume
from supercloud.services.views import OperationView, VolumeView
from supercloud.trust.keys import IdentityKey
from supercloud.web.actions import ACTIONS
from supercloud.web.kinds import KINDS

pytestmark = pytest.mark.contract


def _asked(**other: object) -> dict[str, object]:
    return {"name": "more", "cloud": "c", "image": "debian", "on": "north", "networks": ["lan"], **other}


async def test_an_instance_is_run_and_stopped_from_its_pages(cloud: Served) -> None:
    async with signed_in(cloud) as one:
        await one.get("/web/new/instances?cloud=c")
        wrong = await one.post("/web/new/instances", _asked(vcpus="many"))
        assert wrong.status_code == 422 and "a whole number is expected" in wrong.text
        assert 'value="more"' in wrong.text, "what was filled in stays"
        wrong = await one.post("/web/new/instances", _asked(image="nosuch"))
        assert wrong.status_code == 404 and "image ls shows which there are" in wrong.text
        started = await one.post(
            "/web/new/instances", _asked(vcpus="2", memory_mib="256", ssh_keys="ssh-ed25519 AAAA me")
        )
        assert started.status_code == 303, started.text
        operation = started.headers["location"].rpartition("/")[2]
        await cloud.bench.done(await cloud.bench.control.operation(operation))
        made = await cloud.bench.control.instance("more")
        assert (made.vcpus, made.memory_mib, made.networks) == (2, 256, ("lan",))
        page = await one.get(f"/web/instances/{made.id}")
        assert "instance.run" in page.text and "succeeded" in page.text, "its history"
        stopped = await one.post(f"/web/instances/{made.id}/stop", {"mode": "destroy"})
        assert stopped.headers["location"] == f"/web/instances/{made.id}"
        history = await cloud.bench.control.operations(about=made.id)
        assert [each.kind for each in history] == ["instance.stop", "instance.run"]
        told = await asyncio.to_thread(cloud.client().all, "/operations", object=made.id)
        assert [each["id"] for each in told] == [each.id for each in history], "as the API filters them"
        await cloud.bench.done(history[0])
        refused = await one.post(f"/web/instances/{made.id}/reboot")
        assert refused.status_code == 409 and "is stopped, not running" in refused.text
        assert 'role="alert"' in refused.text and "History" in refused.text, "on the page where it was asked"


async def test_a_provider_is_drained_and_undrained(cloud: Served) -> None:
    async with signed_in(cloud) as one:
        (path,) = {link for link in links(await one.get("/web/providers")) if "/providers/" in link}
        assert f"{path}/drain" in (await one.get(path)).text
        assert (await one.post(f"{path}/drain")).status_code == 303
        assert (await cloud.bench.control.provider("p")).draining
        assert f"{path}/undrain" in (await one.get(path)).text
        assert (await one.post(f"{path}/undrain")).status_code == 303
        assert not (await cloud.bench.control.provider("p")).draining


async def _ended(cloud: Served, one: Browser, path: str, form: dict[str, object]) -> OperationView:
    """The newest operation, once it has."""
    sent = await one.post(path, form)
    assert sent.status_code == 303, sent.text
    return await cloud.bench.done((await cloud.bench.control.operations())[0])


async def test_what_is_taken_away_is_asked_for_again_by_its_name(cloud: Served) -> None:
    control = cloud.bench.control
    made = await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=1 << 30))
    path = f"/web/volumes/{made.id}"
    async with signed_in(cloud) as one:
        page = await one.get(path)
        assert f'href="{path}/remove"' in page.text and f'action="{path}/remove"' not in page.text
        sheet = (await one.get(f"{path}/remove")).text
        assert "Remove volume data of cloud c" in sheet and "for good" in sheet
        assert re.search(r"<button [^>]*>Remove volume data</button>", sheet)
        for unsure in ({}, {"sure": ""}, {"sure": "web-root"}):
            refused = await one.post(f"{path}/remove", unsure)
            assert refused.status_code == 422 and "say that data is meant" in refused.text
        assert await control.volume("data")
        gone = await one.post(f"{path}/remove", {"sure": "data"})
        operation = await control.operation(gone.headers["location"].removeprefix("/web/operations/"))
        assert (await cloud.bench.done(operation)).kind == "volume.remove"
        with pytest.raises(NotFound):
            await control.volume("data")


def test_nothing_is_removed_without_being_asked_for_again() -> None:
    removing = [one for one in ACTIONS.values() if one.name in {"remove", "revoke"}]
    assert all(one.loses for one in removing)
    ended_otherwise = {"operations", "drains", "windows", "incidents"} | {"findings", "orders", "acts"}
    of_providers = {"commands", "delivered", "asked"}
    made_elsewhere = {"principals"}  # by the command line alone
    assert {one.of for one in removing} == set(KINDS) - ended_otherwise - of_providers - made_elsewhere
    assert ACTIONS["windows", "cancel"].loses


async def test_an_instance_is_removed_while_it_runs_only_if_that_is_said(cloud: Served) -> None:
    path = f"/web/instances/{(await cloud.bench.control.instance('web')).id}"
    async with signed_in(cloud) as one:
        assert "even while it runs" in (await one.get(f"{path}/remove")).text
        refused = await one.post(f"{path}/remove", {"sure": "web"})
        assert refused.status_code == 409 and 'role="alert"' in refused.text
        assert "Remove instance web" in refused.text, "on the page where it was asked"
        ended = await _ended(cloud, one, f"{path}/remove", {"sure": "web", "force": "yes"})
        assert ended.kind == "instance.remove"
        assert "web" not in [each.name for each in await cloud.bench.control.instances()]


async def test_a_volume_from_its_making_to_its_end(cloud: Served) -> None:
    control = cloud.bench.control

    async def now() -> VolumeView:
        return await control.volume("data")

    async with signed_in(cloud) as one:
        assert "/web/new/volumes" in links(await one.get("/web/volumes"))
        wrong = await one.post("/web/new/volumes", {"name": "data", "cloud": "c", "size_gib": "much"})
        assert wrong.status_code == 422 and "a whole number is expected" in wrong.text
        asked = {"name": "data", "cloud": "c", "size_gib": "1", "level": "baseline"}
        path = (await one.post("/web/new/volumes", asked)).headers["location"]
        made = await now()
        assert (made.size_bytes, made.level, path) == (1 << 30, Level.BASELINE, f"/web/volumes/{made.id}")
        assert ">web<" in (await one.get(f"{path}/attach")).text
        nothing = await one.post(f"{path}/attach", {"instance": "No one"})
        assert nothing.status_code == 422 and "instance:" in nothing.text
        await _ended(cloud, one, f"{path}/attach", {"instance": (await control.instance("web")).id})
        assert (await now()).instance == "web"
        actions = links(await one.get(path))
        assert f"{path}/detach" in actions and f"{path}/attach" not in actions
        await _ended(cloud, one, f"{path}/resize", {"size_gib": "2"})
        assert (await now()).size_bytes == 2 << 30
        await _ended(cloud, one, f"{path}/snapshot", {"snapshot": "kept"})
        assert (await now()).snapshots == ("kept",) and "kept" in (await one.get(path)).text
        await _ended(cloud, one, f"{path}/detach", {})
        assert (await now()).instance is None
        assert (await _ended(cloud, one, f"{path}/backup", {"image": "monday"})).kind == "volume.backup"
        assert (await control.image("monday")).complete
        await _ended(cloud, one, f"{path}/remove", {"sure": "data"})
        assert [each.name for each in await control.volumes()] == ["web-root"]


async def test_clouds_networks_and_blankets_are_made_and_removed(cloud: Served) -> None:
    control = cloud.bench.control
    parent = (await control.cloud("c")).id
    async with signed_in(cloud) as one:
        asked = {"name": "team", "parent": parent, "vcpus": "4", "disk_gib": "20"}
        made = await one.post("/web/new/clouds", asked)
        team = await control.cloud("team")
        assert made.headers["location"] == f"/web/clouds/{team.id}"
        assert (team.parent, team.quota) == ("c", Quota(vcpus=4, disk_bytes=20 << 30))
        taken = await one.post("/web/new/clouds", asked)
        assert taken.status_code == 409 and 'value="team"' in taken.text and "selected>c<" in taken.text

        choose = await one.get("/web/new/networks")
        assert "<select" in choose.text and "Addresses" not in choose.text, "first the cloud"
        asked = {"name": "back", "cloud": team.id, "cidr": "10.30.0.0/24", "level": "hardened"}
        path = (await one.post("/web/new/networks", asked)).headers["location"]
        back = await control.network("back")
        assert (back.cloud, back.level) == ("team", Level.HARDENED)
        assert (await one.post(f"{path}/remove", {"sure": "back"})).headers["location"] == "/web/networks"
        lan = (await control.network("lan")).id
        refused = await one.post(f"/web/networks/{lan}/remove", {"sure": "lan"})
        assert refused.status_code == 409 and "Remove network lan" in refused.text

        asked = {"name": "south", "cloud": "c", "provider": "p", "memory_mib": "1024"}
        added = await one.post("/web/new/blankets", asked)
        operation = await control.operation(added.headers["location"].removeprefix("/web/operations/"))
        south = (await cloud.bench.done(operation)).object
        assert (await _ended(cloud, one, f"/web/blankets/{south}/remove", {"sure": "south"})).object == south
        gone = await one.post(f"/web/clouds/{team.id}/remove", {"sure": "team"})
        assert gone.headers["location"] == "/web/clouds" and len(await control.clouds()) == 1


async def test_trust_is_granted_listed_and_revoked(cloud: Served) -> None:
    control = cloud.bench.control
    await control.add_principal(AddPrincipal(name="dave", key=IdentityKey.new().name))
    await share_with(cloud.bench, "dave", times=0)
    other = await control.cloud("hers")
    async with signed_in(cloud) as one:
        assert "/web/new/trust" in links(await one.get("/web/trust"))
        asked = {"kind": "share-image", "cloud": "c", "to": other.id, "image": "debian", "days": "2"}
        wrong = await one.post("/web/new/trust", {**asked, "image": "nosuch"})
        assert wrong.status_code == 404 and other.id in wrong.text, "what was filled in stays"
        path = (await one.post("/web/new/trust", {**asked, "delegable": "yes"})).headers["location"]
        (made,) = await control.trusts()
        assert path == f"/web/trust/{made.id}" and made.delegable and made.state is TrustState.ACTIVE
        assert made.expires_at - made.created_at == pytest.approx(2 * 86400, abs=60)
        name = "c trusts hers: share-image debian"
        for where in ("/web/trust", path, f"{path}/revoke"):
            assert name in (await one.get(where)).text, where
        assert (await one.post(f"{path}/revoke")).status_code == 422
        assert (await one.post(f"{path}/revoke", {"sure": name})).headers["location"] == path
        assert (await control.trust(made.id)).state is TrustState.REVOKED
        assert f"{path}/revoke" not in links(await one.get(path))


async def test_room_is_lent_from_a_page_and_offered_to_whom_it_is_lent(cloud: Served) -> None:
    control = cloud.bench.control
    dave = await person(cloud, "dave")
    await share_with(cloud.bench, "dave", times=0)
    other, north = await control.cloud("hers"), await control.blanket("north")
    option = f'<option value="{north.id}">north (c lets it)</option>'
    async with signed_in(cloud) as one, signed_in(cloud, dave.signing()) as his:
        form = f"/web/new/blankets?cloud={other.id}"
        assert north.id not in (await his.get(form)).text
        await one.get("/web/new/trust?cloud=c")
        asked = {"kind": "place", "cloud": "c", "to": other.id, "blanket": "north"}
        wrong = await one.post("/web/new/trust", {**asked, "blanket": ""})
        assert wrong.status_code == 422 and "place takes blanket" in wrong.text
        path = (await one.post("/web/new/trust", asked)).headers["location"]
        assert "c trusts hers: place north" in (await one.get(path)).text
        assert option in (await his.get(form)).text
        small = {"vcpus": "1", "memory_mib": "400", "disk_gib": "4", "flavour": "kvm"}
        made = await his.post(
            "/web/new/blankets", {"name": "g", "cloud": other.id, "parent": north.id, **small}
        )
        operation = await control.operation(made.headers["location"].removeprefix("/web/operations/"))
        guest = (await cloud.bench.done(operation)).object
        assert guest in (await one.get(path)).text, "who lends it sees its id"
        assert (await one.post(f"{path}/revoke", {"sure": "c trusts hers: place north"})).status_code == 303
        assert north.id not in (await his.get(form)).text


async def test_a_network_is_connected_from_its_page_and_cut(cloud: Served) -> None:
    control = cloud.bench.control
    await control.add_principal(AddPrincipal(name="dave", key=IdentityKey.new().name))
    await share_with(cloud.bench, "dave", times=0)
    other = await control.cloud("hers")
    jobs = await control.create_network(CreateNetwork(name="jobs", cloud=other.id, cidr="10.8.0.0/24"))
    async with signed_in(cloud) as one:
        await one.get("/web/new/trust?cloud=c")
        asked = {"kind": "connect", "cloud": "c", "to": other.id, "network": "lan", "to_network": jobs.id}
        for lacking in ("network", "to_network"):
            wrong = await one.post("/web/new/trust", {**asked, lacking: ""})
            assert wrong.status_code == 422 and "connect takes network and to-network" in wrong.text
            assert other.id in wrong.text, "what was filled in stays"
        wrong = await one.post("/web/new/trust", {**asked, "image": "debian"})
        assert wrong.status_code == 422 and "and nothing else" in wrong.text
        path = (await one.post("/web/new/trust", asked)).headers["location"]
        (made,) = await control.trusts()
        assert path == f"/web/trust/{made.id}" and made.state is TrustState.ACTIVE
        name = "c trusts hers: connect lan from jobs"
        for where in ("/web/trust", path, f"{path}/revoke"):
            assert name in (await one.get(where)).text, where
        page = f"/web/networks/{(await control.network('lan')).id}"
        assert "hers/jobs (10.8.0.0/24)" in (await one.get(page)).text
        await control.set_level(Thing.NETWORK, jobs.id, SetLevel(level=Level.ISOLATED))
        for where in (page, path):
            assert "network jobs is isolated" in (await one.get(where)).text, where
        assert (await one.post(f"{path}/revoke", {"sure": name})).headers["location"] == path
        assert (await control.trust(made.id)).state is TrustState.REVOKED
        assert "hers/jobs" not in (await one.get(page)).text


async def test_a_level_is_explained_raised_and_lowered_only_if_that_is_meant(cloud: Served) -> None:
    control = cloud.bench.control
    instance = (await control.instance("web")).id
    path = f"/web/instances/{instance}/level"
    async with signed_in(cloud) as one:
        assert path in links(await one.get(f"/web/instances/{instance}"))
        assert "security level </span>open<" in (await one.get("/web/")).text, "in its cell"
        page = (await one.get(path)).text
        told = await control.explain_level(Thing.INSTANCE, instance)
        assert all(rule.says in page for rule in told.rules) and "north in p (it is here)" in page
        as_if = (await one.get(f"{path}?as_if=isolated")).text
        assert "as if it were <strong>isolated</strong>" in as_if
        told = await control.explain_level(Thing.INSTANCE, instance, level=Level.ISOLATED)
        for rule in [rule for place in told.places for rule in place.rules]:
            assert html.escape(rule.by or rule.why).replace("&#x27;", "&#39;") in as_if
        changed = await one.post(path, {"level": "isolated"})
        assert changed.status_code == 200 and "instance web is isolated, and was open" in changed.text
        assert "instance web in north has to be moved" in changed.text, "a double is of no such processor"
        assert (await control.instance("web")).level is Level.ISOLATED
        refused = await one.post(path, {"level": "open"})
        assert refused.status_code == 409 and "is isolated, which is higher than open" in refused.text
        assert (await control.instance("web")).level is Level.ISOLATED
        assert (await one.post(path, {"level": "open", "lower": "yes"})).status_code == 200
        assert (await control.instance("web")).level is Level.OPEN
        assert (await one.post(path, {"level": "highest"})).status_code == 422
        root = (await control.volume("web-root")).id
        refused = await one.post(f"/web/volumes/{root}/level", {"level": "baseline"})
        assert refused.status_code == 409 and "boots from volume" in refused.text
