"""What is asked for each blanket or instance, of which there may be thousands, reads no whole table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from control_rig import Bench
from sqlalchemy import event

from supercloud.model.trust import TrustKind
from supercloud.services.pages import Page
from supercloud.services.requests import CreateCloud, CreateNetwork, GrantTrust

pytestmark = pytest.mark.contract
#: Rows of each grow with the blankets, the instances, or everything that ever happened.
_LARGE = "instances|volumes|volume_copies|nics|published|rights|peer_links|operations|events"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite says how it goes about a query whatever there is in its tables."""
    return f"sqlite:///{tmp_path / 'supercloud.db'}"


@contextmanager
def listening(bench: Bench) -> Iterator[list[tuple[str, Any]]]:
    """Every query until the end of the block, with its parameters."""
    found: list[tuple[str, Any]] = []

    def heard(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            found.append((statement, parameters))

    engine = bench.parts.store.engine.sync_engine
    event.listen(engine, "before_cursor_execute", heard)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", heard)


async def scans(bench: Bench, queries: list[tuple[str, Any]]) -> list[str]:
    """Steps of SQLite's plans that read a large table, or its index, from end to end."""
    found: list[str] = []
    async with bench.parts.store.engine.connect() as connection:
        for statement, parameters in queries:
            plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).all()
            found += [f"{row[3]}: {statement}" for row in plan if re.match(rf"SCAN ({_LARGE})\b", row[3])]
    return found


async def _nothing() -> None: ...


async def test_nothing_that_is_asked_for_each_reads_a_whole_table(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It looks at every right, once every ten seconds.
    monkeypatch.setattr(bench.control.reconciler, "expired", _nothing)
    north = await bench.blanket("north")
    await bench.blanket("south")
    instance = await bench.run()
    control, blanket = bench.control, north.birth.blanket
    await control.create_cloud(CreateCloud(name="b"))
    await control.create_network(CreateNetwork(name="jobs", cloud="b", cidr="10.8.0.0/24"))
    let = GrantTrust(kind=TrustKind.CONNECT, cloud="c", to="b", network="lan", to_network="jobs")
    await control.grant_trust(let)
    with listening(bench) as queries:
        await control.instance("web", cloud="c")
        await control.instances(cloud="c", page=Page(limit=1))
        await north.renew(instance)
        await control.reconciler.blankets()
        await control.reconciler.blanket(blanket)
        await bench.parts.meshes.apply(blanket)
        await bench.parts.meshes.refresh((await control.cloud("b")).id)
        await bench.parts.meshes.locate(instance)
        await control.world.instance(instance)
    assert len(queries) > 20
    assert await scans(bench, queries) == []
    with listening(bench) as queries:
        await control.status()
    assert await scans(bench, queries), "what counts everything does, so a scan is seen"
