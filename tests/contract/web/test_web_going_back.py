"""Going back in the page: a volume, and an instance with the volume that it boots from."""

from __future__ import annotations

import re
from typing import Any

import pytest
from api_rig import Served, Signing
from web_rig import Browser, links, signed_in

from supercloud.model.permissions import Permission
from supercloud.model.states import InstanceState
from supercloud.services.requests import CreateVolume
from supercloud.services.views import OperationView
from supercloud.trust.tokens import Bounds, attenuate

pytestmark = pytest.mark.contract


async def _ended(cloud: Served, one: Browser, path: str, form: dict[str, Any]) -> OperationView:
    """The newest operation, once it has."""
    sent = await one.post(path, form)
    assert sent.status_code == 303, sent.text
    return await cloud.bench.done((await cloud.bench.control.operations())[0])


def _choices(page: str) -> list[str]:
    return re.findall(r'<option value="([^"]*)"', page)


async def test_a_volume_goes_back_to_a_snapshot(cloud: Served) -> None:
    control = cloud.bench.control
    made = await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=1 << 30))
    path = f"/web/volumes/{made.id}"
    async with signed_in(cloud) as one:
        page = await one.get(path)
        assert "It has none." in page.text and f"{path}/restore" not in links(page), "to nothing"
        await _ended(cloud, one, f"{path}/attach", {"instance": (await control.instance("web")).id})
        for name in ("first", "second"):
            taken = await _ended(cloud, one, f"{path}/snapshot", {"snapshot": name})
        page = await one.get(path)
        assert f"/web/operations/{taken.id}" in links(page), "when it was taken"
        assert "Snapshots that it can go back to" in page.text and "none goes with an instance" in page.text

        sheet = (await one.get(f"{path}/restore")).text
        assert "Restore volume data of cloud c" in sheet and "is gone, for good" in sheet
        assert _choices(sheet) == ["second", "first"], "it has no image"
        refusals = {
            422: ({"snapshot": "first"}, {"snapshot": "", "sure": "data"}, {"sure": "data"}),
            409: ({"snapshot": "third", "sure": "data"}, {"snapshot": ":image", "sure": "data"}),
        }
        for status, forms in refusals.items():
            for form in forms:
                refused = await one.post(f"{path}/restore", form)
                assert refused.status_code == status and 'role="alert"' in refused.text, form
        running = await one.post(f"{path}/restore", {"snapshot": "first", "sure": "data"})
        assert running.status_code == 409 and "has volume data and is running" in running.text
        assert "supercloud vm stop web" in running.text, "what to do"
        assert "selected>snapshot first<" in running.text, "what was chosen stays"
        assert not await control.operations(kind="volume.restore")

        await _ended(cloud, one, f"/web/instances/{(await control.instance('web')).id}/stop", {})
        sent = await one.post(f"{path}/restore", {"snapshot": "first", "sure": "data"})
        operation = (await control.operations())[0]
        assert sent.headers["location"] == f"/web/operations/{operation.id}", "it is seen going on"
        ended = await cloud.bench.done(operation)
        assert (ended.kind, ended.result and ended.result["snapshot"]) == ("volume.restore", "first")
        assert "volume.restore" in (await one.get(path)).text, "its history"


async def test_an_instance_goes_back_to_its_image_and_runs_again(cloud: Served) -> None:
    control = cloud.bench.control
    instance, root = await control.instance("web"), await control.volume("web-root")
    path = f"/web/instances/{instance.id}"
    (double,) = cloud.bench.site.machines.values()
    async with signed_in(cloud) as one:
        await _ended(cloud, one, f"/web/volumes/{root.id}/snapshot", {"snapshot": "before"})
        assert f"{path}/restore" in links(await one.get(path))
        sheet = (await one.get(f"{path}/restore")).text
        assert "as if its power was cut" in sheet and _choices(sheet) == ["before", ":image"]
        assert "image debian, as it began, without before" in sheet, "what is lost with it"
        assert (await one.post(f"{path}/restore", {"snapshot": ":image"})).status_code == 422
        missing = await one.post(f"{path}/restore", {"snapshot": "after", "sure": "web"})
        assert missing.status_code == 409 and "has no snapshot after" in missing.text
        assert (await control.instance("web")).state is InstanceState.RUNNING and not double.restored
        ended = await _ended(cloud, one, f"{path}/restore", {"snapshot": ":image", "sure": "web"})
        assert ended.kind == "instance.restore" and double.restored == [(root.id, None)]
        assert (await control.instance("web")).state is InstanceState.RUNNING
        page = (await one.get(f"/web/volumes/{root.id}")).text
        assert "it can go back to image debian" in page, "its snapshots are gone"
        assert "instance.restore" in (await one.get(path)).text


async def test_who_may_run_an_instance_and_read_no_volume_names_the_snapshot(cloud: Served) -> None:
    sign, control = cloud.sign(), cloud.bench.control
    root = await control.volume("web-root")
    await cloud.bench.done(await control.snapshot_volume(root.id, snapshot="before"))
    path = f"/web/instances/{(await control.instance('web')).id}"
    only = attenuate(sign.token, Bounds(only=frozenset({Permission.VM_RUN, Permission.WEB_SIGN_IN})))
    async with signed_in(cloud, Signing(sign.key, only, cloud.channel)) as one:
        sheet = (await one.get(f"{path}/restore")).text
        assert "or :image" in sheet and "before" not in sheet
        assert (await one.post(f"{path}/restore", {"snapshot": "Not one", "sure": "web"})).status_code == 422
        ended = await _ended(cloud, one, f"{path}/restore", {"snapshot": "before", "sure": "web"})
        assert ended.kind == "instance.restore"
        assert (await one.post(f"/web/volumes/{root.id}/restore", {"snapshot": "before"})).status_code == 403
    reads = frozenset({Permission.VOLUME_READ, Permission.VM_READ, Permission.WEB_SIGN_IN})
    reader = Signing(sign.key, attenuate(sign.token, Bounds(only=reads)), cloud.channel)
    async with signed_in(cloud, reader) as one:
        page = await one.get(f"/web/volumes/{root.id}")
        assert ">before<" in page.text and f"/web/volumes/{root.id}/restore" not in links(page)
        for where in (f"/web/volumes/{root.id}/restore", f"{path}/restore"):
            assert (await one.get(where)).status_code == 403
            form = {"snapshot": "before", "sure": "web"}
            assert (await one.post(where, form)).status_code == 403, where
