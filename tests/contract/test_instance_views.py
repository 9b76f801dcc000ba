"""What is shown of instances, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, NotFound
from supercloud.model.names import Id, new_id
from supercloud.model.right import RightTerms
from supercloud.model.states import InstanceState
from supercloud.services import instance_views
from supercloud.services.store.engine import Store
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import Cloud, Image, Instance, Network, NicRow, Published, Volume

pytestmark = pytest.mark.contract


class Rows:
    """Makes rows as the services do, and nothing around them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self.image = Image(
            id=new_id(),
            name="debian",
            digest="sha256:" + "0" * 64,
            size_bytes=1,
            virtual_bytes=1,
            created_at=0.0,
        )
        session.add(self.image)

    async def cloud(self, name: str) -> Id:
        row = Cloud(
            id=new_id(), name=name, cpu_model="m", length_s=60, margin_s=15, grace_s=30, created_at=0.0
        )
        self._session.add(row)
        await self._session.flush()
        return row.id

    async def network(self, cloud: Id, name: str, vni: int) -> Id:
        row = Network(
            id=new_id(),
            cloud=cloud,
            name=name,
            vni=vni,
            cidr="10.0.0.0/24",
            gateway="10.0.0.1",
            created_at=0.0,
        )
        self._session.add(row)
        await self._session.flush()
        return row.id

    async def instance(self, cloud: Id, name: str) -> Id:
        row = Instance(
            id=new_id(),
            cloud=cloud,
            name=name,
            state=InstanceState.CREATED,
            image=self.image.id,
            vcpus=1,
            memory_mib=256,
            ssh_keys=[],
            created_at=0.0,
        )
        self._session.add(row)
        SqlRights.create(self._session, row.id, cloud=cloud, terms=RightTerms())
        await self._session.flush()
        return row.id

    def nic(self, cloud: Id, instance: Id, network: Id, position: int) -> None:
        self._session.add(
            NicRow(
                instance=instance,
                network=network,
                cloud=cloud,
                position=position,
                mac=f"02:00:00:00:00:0{position}",
                ip=f"10.0.0.{position + 2}",
            )
        )

    def volume(self, cloud: Id, instance: Id | None, name: str, position: int) -> None:
        self._session.add(
            Volume(
                id=new_id(),
                cloud=cloud,
                name=name,
                size_bytes=1,
                instance=instance,
                position=position,
                snapshots=[],
                created_at=0.0,
            )
        )


async def test_each_instance_is_shown_with_what_is_its_own_and_in_order(store: Store) -> None:
    rights = SqlRights(store)
    async with store.write() as session:
        rows = Rows(session)
        first, second = await rows.cloud("a"), await rows.cloud("b")
        lan, wan = await rows.network(first, "lan", 1), await rows.network(first, "wan", 2)
        web, other = await rows.instance(first, "web"), await rows.instance(first, "other")
        twin = await rows.instance(second, "web")
        rows.nic(first, web, wan, 1)
        rows.nic(first, web, lan, 0)
        for place, name in ((2, "logs"), (0, "root"), (10, "more")):
            rows.volume(first, web, name, place)
        rows.volume(first, None, "loose", 0)
        rows.volume(second, twin, "root", 0)
        session.add(Published(at=8443, cloud=first, instance=web, port=443))
        session.add(Published(at=8080, cloud=first, instance=web, port=80))
    async with store.read() as session:
        every = await instance_views.views(session, rights)
        of_first = await instance_views.views(session, rights, clouds=(first,))
        shown = await instance_views.view(session, rights, "web", clouds=(first,))
        by_id = await instance_views.view(session, rights, twin)
        with pytest.raises(Conflict, match="several clouds"):
            await instance_views.view(session, rights, "web")
        with pytest.raises(NotFound):
            await instance_views.view(session, rights, "other", clouds=(second,))
    in_order = [("a", "other"), ("a", "web"), ("b", "web")]
    assert sorted((one.cloud, one.name) for one in every) == in_order
    assert [one.id for one in of_first] == [other, web] and of_first[1] == shown
    assert (shown.networks, shown.addresses) == (("lan", "wan"), ("10.0.0.2", "10.0.0.3"))
    assert shown.macs == ("02:00:00:00:00:00", "02:00:00:00:00:01")
    assert shown.volumes == ("root", "logs", "more")
    assert shown.published == ("127.0.0.1:8080->80", "127.0.0.1:8443->443")
    assert (by_id.cloud, by_id.volumes, by_id.networks, by_id.right_left_s) == ("b", ("root",), (), None)
