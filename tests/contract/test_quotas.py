"""Quotas on both databases: however many ask at once, no cloud has more than it may."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx
import pytest
from api_rig import Served
from control_rig import Bench, World
from sqlalchemy import select
from test_authorization import _client

from supercloud.model.errors import Conflict, Denied, InvalidInput, NotFound, OverQuota, Refused
from supercloud.model.names import MIB, new_id
from supercloud.model.quota import UNLIMITED, Amounts, Quota
from supercloud.services import quotas
from supercloud.services.caller import Caller
from supercloud.services.requests import (
    AddBlanket,
    AddPrincipal,
    AddProvider,
    CreateCloud,
    CreateVolume,
    MintToken,
    RunInstance,
)
from supercloud.services.store.tables import Cloud, Operation, Volume
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tokens import Bounds, attenuate

pytestmark = pytest.mark.contract


async def at_once(*asked: Coroutine[Any, Any, Any]) -> tuple[int, list[OverQuota]]:
    """How many were granted, and why the others were not: by the quota and nothing else."""
    found = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in found if isinstance(one, OverQuota)]
    others = [one for one in found if isinstance(one, BaseException) and not isinstance(one, OverQuota)]
    assert not others, others
    return len(found) - len(refused), refused


async def test_many_at_once_never_exceed_it(bench: Bench) -> None:
    control = bench.control
    await control.set_quota("c", Quota(vcpus=8, memory_mib=2000, disk_bytes=600 * MIB, blankets=2, domains=1))
    added = (AddBlanket(name=f"n{number}", cloud="c", provider="p") for number in range(6))
    granted, refused = await at_once(*(control.add_blanket(one) for one in added))
    assert granted == 2 and "for blankets is 2: 2 used, 1 asked" in refused[0].message
    for view in await control.operations(kind="blanket.add"):
        await bench.done(view)

    wanted = [
        RunInstance(name=f"i{number}", cloud="c", image="debian", vcpus=2, memory_mib=300)
        for number in range(12)
    ]
    granted, refused = await at_once(*(control.run_instance(one) for one in wanted))
    assert granted == 4 and "for vCPUs is 8: 8 used, 2 asked" in refused[0].message
    used = (await control.cloud("c")).used
    assert used == Amounts(vcpus=8, memory_mib=1200, disk_bytes=256 * MIB, blankets=2, domains=1)
    assert len(await control.instances()) == len(await control.volumes()) == 4, "a refusal leaves nothing"

    created = (
        CreateVolume(name=f"d{number}", cloud="c", size_bytes=(40 + number) * MIB) for number in range(12)
    )
    granted, refused = await at_once(*(control.create_volume(one) for one in created))
    assert 6 <= granted <= 8 and "for disk is 600M" in refused[0].message
    assert (await control.cloud("c")).used.disk_bytes <= 600 * MIB
    for view in await control.operations(kind="instance.run"):
        await bench.done(view)


async def test_growing_counts_from_when_it_is_asked_for_and_once(bench: Bench) -> None:
    control = bench.control
    for name in "ab":
        await control.create_volume(CreateVolume(name=name, cloud="c", size_bytes=10 * MIB))
    await control.set_quota("c", Quota(disk_bytes=50 * MIB))
    granted, refused = await at_once(*(control.resize_volume(one, size_bytes=35 * MIB) for one in "abab"))
    assert granted in {1, 2} and refused, "the same one twice is one"
    for view in await control.operations(kind="volume.resize"):
        await bench.done(view)
    assert (await control.cloud("c")).used.disk_bytes == 45 * MIB
    with pytest.raises(OverQuota, match="45M used, 10M asked"):
        await control.create_volume(CreateVolume(name="c", cloud="c", size_bytes=10 * MIB))
    await bench.done(await control.remove_volume("a"))
    await control.create_volume(CreateVolume(name="c", cloud="c", size_bytes=15 * MIB))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_what_has_grown_between_two_looks_is_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's next statement sees it; SQLite's writers have their turns."""
    control, store = bench.control, bench.parts.store
    volume = await control.create_volume(CreateVolume(name="a", cloud="c", size_bytes=10 * MIB))
    growing = Operation(
        id=new_id(), kind="volume.resize", object=volume.id, intent={"size_bytes": 35 * MIB}, state="running",
        join_key=volume.id, object_name="a", created_at=0.0,
    )  # fmt: skip
    async with store.write() as session:
        session.add(growing)

    def then_it_has_grown(look: Any) -> Any:
        async def looked(*asked: Any) -> Any:
            seen = await look(*asked)
            if getattr(asked[1], "class_", Volume) is not Volume:
                return seen
            async with store.write() as other:
                (await other.get_one(Volume, volume.id)).size_bytes = 35 * MIB
                (await other.get_one(Operation, growing.id)).ended_at = 1.0
            return seen

        return looked

    monkeypatch.setattr(quotas, "_growing", then_it_has_grown(quotas._growing))
    monkeypatch.setattr(quotas, "_by_cloud", then_it_has_grown(quotas._by_cloud))
    async with store.write() as session:
        cloud = await session.scalar(select(Cloud.id).where(Cloud.name == "c"))
        assert cloud is not None
        assert (await quotas.used_of(session, cloud)).disk_bytes >= 35 * MIB


async def test_a_quota_is_not_set_below_what_there_is_and_may_be_taken_away(bench: Bench) -> None:
    control = bench.control
    assert (await control.cloud("c")).quota == UNLIMITED
    await control.create_volume(CreateVolume(name="a", cloud="c", size_bytes=10 * MIB))
    with pytest.raises(OverQuota, match="cloud c has 10M of disk by now, more than 8M"):
        await control.set_quota("c", Quota(disk_bytes=8 * MIB))
    assert (await control.set_quota("c", Quota(disk_bytes=10 * MIB))).quota.disk_bytes == 10 * MIB
    assert (await control.set_quota("c", UNLIMITED)).quota == UNLIMITED
    await control.add_provider(AddProvider(name="q", kind="simulated"))
    await control.set_quota("c", Quota(domains=1))
    await bench.done(await control.add_blanket(AddBlanket(name="n", cloud="c", provider="p")))
    with pytest.raises(OverQuota, match="for domains is 1: 1 used, 1 asked"):
        await control.add_blanket(AddBlanket(name="s", cloud="c", provider="q"))
    await bench.done(await control.add_blanket(AddBlanket(name="m", cloud="c", provider="p")))


async def test_slices_and_own_use_together_never_exceed_the_parents(bench: Bench) -> None:
    control = bench.control
    await control.set_quota("c", Quota(vcpus=10, disk_bytes=100 * MIB))
    with pytest.raises(OverQuota, match="cloud team needs a limit for disk, since cloud c"):
        await control.create_cloud(CreateCloud(name="team", parent="c", quota=Quota(vcpus=2)))
    slices = [
        CreateCloud(name=f"t{number}", parent="c", quota=Quota(vcpus=3, disk_bytes=10 * MIB))
        for number in range(6)
    ]
    volumes = [CreateVolume(name=f"d{one}", cloud="c", size_bytes=15 * MIB) for one in range(6)]
    granted, _ = await at_once(
        *(control.create_cloud(one) for one in slices), *(control.create_volume(one) for one in volumes)
    )
    shown = await control.cloud("c")
    nested = [one for one in await control.clouds() if one.parent == "c"]
    assert 1 <= len(nested) <= 3 and shown.used.vcpus == 3 * len(nested)
    assert shown.used.disk_bytes <= 100 * MIB, "whichever came first"
    assert granted == len(nested) + len(await control.volumes())

    name = nested[0].name
    for taken in [one.name for one in await control.volumes()][:-1]:
        await bench.done(await control.remove_volume(taken))
    refused = [one for one in slices if one.name not in {there.name for there in nested}]
    for late in refused[: 3 - len(nested)]:
        await control.create_cloud(late)
    await control.create_volume(CreateVolume(name="x", cloud=name, size_bytes=10 * MIB))
    with pytest.raises(OverQuota, match=f"quota of cloud {name} for disk is 10M: 10M used, 1M asked"):
        await control.create_volume(CreateVolume(name="y", cloud=name, size_bytes=MIB))
    with pytest.raises(OverQuota, match="quota of cloud c for vCPUs is 10"):
        await control.set_quota(name, Quota(vcpus=5, disk_bytes=10 * MIB))
    larger = Quota(vcpus=4, disk_bytes=20 * MIB)
    assert (await control.set_quota(name, larger)).quota == larger
    with pytest.raises(OverQuota, match="cloud c has 10 of vCPUs by now"):
        await control.set_quota("c", Quota(vcpus=9))
    with pytest.raises(Conflict, match="is in cloud c"):
        await control.remove_cloud("c")


async def test_clouds_within_one_another_have_an_end(bench: Bench) -> None:
    parent = "c"
    for depth in range(7):
        await bench.control.create_cloud(CreateCloud(name=f"n{depth}", parent=parent))
        parent = f"n{depth}"
    with pytest.raises(Refused, match="is 8 deep in others already"):
        await bench.control.create_cloud(CreateCloud(name="deeper", parent=parent))
    with pytest.raises(InvalidInput, match="only a cloud within another one"):
        await bench.control.create_cloud(CreateCloud(name="hers", owner=IdentityKey.new().name))
    with pytest.raises(NotFound, match="no principal has the key"):
        await bench.control.create_cloud(CreateCloud(name="hers", parent="c", owner=IdentityKey.new().name))


# ---------------------------------------------------------------- whose a nested cloud is


async def test_who_has_a_cloud_reaches_those_in_it_and_never_the_other_way(api: Served, world: World) -> None:
    control = api.bench.control
    keys = {name: IdentityKey.new() for name in ("alice", "bob")}
    clients: dict[str, httpx.AsyncClient] = {}
    tokens: dict[str, str] = {}
    sign = api.sign()
    for name, key in keys.items():
        await control.add_principal(AddPrincipal(name=name, key=key.name))
        tokens[name] = (await control.mint_token(MintToken(principal=name))).token
        clients[name] = _client(api, replace_signing(sign, key, tokens[name]))
    bound = attenuate(tokens["alice"], Bounds(clouds=frozenset({"top"})))
    clients["bound"] = _client(api, replace_signing(sign, keys["alice"], bound))
    elsewhere = attenuate(tokens["alice"], Bounds(clouds=frozenset({"other"})))
    clients["elsewhere"] = _client(api, replace_signing(sign, keys["alice"], elsewhere))
    alice, bob = clients["alice"], clients["bob"]
    for name in ("top", "other"):
        assert (await alice.post("/clouds", json={"name": name, "quota": {"vcpus": 8}})).status_code == 201
    nest = {"name": "team", "parent": "top", "owner": keys["bob"].name, "quota": {"vcpus": 2}}
    assert (await bob.post("/clouds", json=nest)).status_code == 404, "the parent is not his"
    made = (await alice.post("/clouds", json=nest)).json()
    assert (made["owner"], made["parent"]) == ("bob", "top")

    seen = {
        who: {one["name"]: one for one in (await one.get("/clouds")).json()} for who, one in clients.items()
    }
    assert set(seen["alice"]) == {"top", "other", "team"} and set(seen["bound"]) == {"top", "team"}
    assert set(seen["bob"]) == {"team"} and seen["bob"]["team"]["parent"] is None
    assert set(seen["elsewhere"]) == {"other"}
    assert seen["alice"]["top"]["used"]["vcpus"] == 2, "the slice is taken, used or not"
    inside = {"name": "d", "cloud": "team", "size_bytes": MIB}
    assert (await bob.post("/volumes", json=inside)).status_code == 201
    for who in ("alice", "bound"):
        assert (await clients[who].get("/volumes/d")).json()["cloud"] == "team"
    assert (await clients["elsewhere"].get("/volumes/d")).status_code == 404
    assert (await bob.get("/clouds/top")).status_code == 404
    refused = await bob.put("/clouds/team/quota", json={"vcpus": 3})
    assert refused.status_code == 403 and "slice" in refused.json()["detail"], refused.text
    assert (await bob.put("/clouds/top/quota", json={})).status_code == 404
    assert (await clients["bound"].put("/clouds/team/quota", json={"vcpus": 3})).status_code == 200
    mine = {"name": "top", "parent": "team", "quota": {"vcpus": 1}}
    assert (await bob.post("/clouds", json=mine)).status_code == 201, "within his own he may"
    assert (await alice.get("/clouds/top")).json()["owner"] == "alice", "her own name stays hers"
    for client in clients.values():
        await client.aclose()


def replace_signing(sign: Any, key: IdentityKey, token: str) -> Any:
    return type(sign)(key, token, sign.channel)


async def test_a_caller_without_the_parent_does_not_set_a_slice(bench: Bench) -> None:
    made = await bench.control.create_cloud(CreateCloud(name="team", parent="c"))
    caller = Caller(principal=new_id(), operator=False, undivided=True, revocation_ids=(), clouds=(made.id,))
    with pytest.raises(Denied, match="is a slice of that of the cloud it is in"):
        await bench.control.on_behalf_of(caller).set_quota("team", Quota(vcpus=1))
