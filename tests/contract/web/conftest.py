"""A control plane on SQLite that browsers come to, and a clock for their sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from api_rig import Served, served
from control_rig import World, furnish
from web_rig import Clock

from supercloud.services.sessions import Sessions

if TYPE_CHECKING:
    from browser_rig import Scene


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
async def api(world: World, tmp_path: Path, clock: Clock) -> AsyncIterator[Served]:
    """Without anything in it."""
    async with served(world, tmp_path / "h", Sessions(now=clock)) as made:
        yield made


@pytest.fixture
async def cloud(api: Served, world: World) -> Served:
    """With a running instance."""
    await furnish(api.bench, world.keys)
    await api.bench.blanket("north")
    await api.bench.run()
    return api


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Two domains, and a browser in front of them."""
    from browser_rig import staged

    async with staged(tmp_path) as made:
        yield made
