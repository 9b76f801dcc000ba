"""`apply`, `diff` and `export` as a user has them, over the real API and machines that dial in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_rig import Served, served
from test_control_plane import World, furnish

pytestmark = pytest.mark.contract
CLOUD = """\
version: 1
cloud:
  name: mine
  rightLength: 90
providers:
  north: {kind: simulated}
  south: {kind: simulated, options: {memory_mib: 65536}}
blankets:
  n1: {provider: north, memory: 1.5G}
  s1: {provider: south}
networks:
  lan: {cidr: 10.7.0.0/24}
volumes:
  data: {size: 16M}
  spare: {size: 8M, blanket: s1}
instances:
  web:
    image: debian
    blanket: n1
    disk: 64M
    networks: [lan]
    publish: [80]
    volumes: [data]
    userDataFile: web.yaml
    sshKeys: [ssh-ed25519 AAAA me@here]
  db:
    image: debian
    memory: 256M
    networks: [lan]
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "machines").mkdir()
    made = World(f"sqlite:///{tmp_path / 'supercloud.db'}", tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def cli(world: World, tmp_path: Path) -> AsyncIterator[Served]:
    """With an image."""
    async with served(world, tmp_path / "h") as made:
        await furnish(made.bench, world.keys)
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "web.yaml").write_text("#cloud-config\nhostname: web\n")
    made = tmp_path / "cloud.yaml"
    made.write_text(CLOUD)
    return made


async def test_a_cloud_from_its_file_and_back(cli: Served, file: Path) -> None:
    would = await cli.run("diff", "-f", str(file))
    assert would.status == 8 and "+ create cloud mine" in would.out, would
    done = await cli.ok("apply", "-f", str(file))
    print(done.out, done.err)
    assert done.out.endswith(f"cloud mine is as {file} says\n")
    shown = {one.name: one for one in await cli.bench.control.instances(cloud="mine")}
    assert (shown["web"].blanket, shown["web"].state, shown["web"].volumes) == (
        "n1",
        "running",
        ("web-root", "data"),
    )
    again = await cli.ok("apply", "-f", str(file))
    print(again.out)
    assert again.out == f"cloud mine is as {file} says already\n"
    assert (await cli.ok("diff", "-f", str(file))).out
    back = file.with_name("back.yaml")
    await cli.ok("export", "mine", "-f", str(back))
    print(back.read_text())
    assert (await cli.ok("diff", "-f", str(back), "-o", "json")).json["steps"] == []
