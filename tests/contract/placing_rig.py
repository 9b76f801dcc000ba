"""Blankets in two domains, and where instances come: for tests of placement, moves and levels."""

from __future__ import annotations

from blanket_double import Double
from control_rig import Bench

from supercloud.model.levels import Level
from supercloud.services.requests import AddBlanket, RunInstance


async def blanket(bench: Bench, name: str, cloud: str = "c", *, debug_shell: bool = False) -> Double:
    """On platform q if its name begins with s, and else on p."""
    provider = "q" if name.startswith("s") else "p"
    request = AddBlanket(name=name, cloud=cloud, provider=provider, debug_shell=debug_shell)
    view = await bench.done(await bench.control.add_blanket(request))
    return bench.site.machines[view.object]


async def run(
    bench: Bench, name: str, on: str | None = None, level: Level | None = None, **more: object
) -> str:
    """Where it came."""
    request = RunInstance(
        name=name,
        cloud="c",
        image="debian",
        on=on,
        memory_mib=64,
        level=level,
        **more,  # type: ignore[arg-type]
    )
    view = await bench.done(await bench.control.run_instance(request))
    assert view.result is not None
    return str(view.result["blanket_name"])
