"""Rotating a cloud's WireGuard keys without losing a connection.

Everybody makes a next key; everybody's peers accept it beside the present one; only then everybody uses it;
then the old ones go. Killed anywhere, it is repeated: a next key is made once, and using it twice is once.
"""

from __future__ import annotations

from supercloud.model.errors import Unavailable
from supercloud.model.names import Id
from supercloud.ports.durable import Saga
from supercloud.services.sagas.world import World

_TRIES = 5
_PAUSE_S = 3.0


async def rotate(saga: Saga, world: World, *, cloud: Id) -> None:
    """
    Raises:
        Unavailable: a blanket in the mesh, connected or not, did not take its peers' next keys, so nobody
            switched.
    """
    await saga.progress("making next keys", done=0.1)
    await saga.step("prepare", lambda: _prepare(world, cloud), type(None))
    await saga.progress("telling peers", done=0.4)
    for attempt in range(_TRIES):
        missing = await saga.step(f"tell {attempt}", lambda: world.spread(cloud), tuple[Id, ...])
        if not missing:
            break
        await saga.sleep(_PAUSE_S)
    else:
        raise Unavailable(
            f"blanket {missing[0]} did not take its peers' next keys, so that nobody uses them yet",
            hint="have it connect, or remove it",
        )
    await saga.progress("switching", done=0.7)
    await saga.step("switch", lambda: _switch(world, cloud), type(None))
    await saga.step("retire", lambda: world.spread(cloud), tuple[Id, ...])


async def _prepare(world: World, cloud: Id) -> None:
    for blanket in await world.blankets(cloud):
        await world.keys_reported(blanket, await world.agent(blanket).overlay.prepare_key())


async def _switch(world: World, cloud: Id) -> None:
    for blanket in await world.blankets(cloud):
        await world.keys_reported(blanket, await world.agent(blanket).overlay.switch_key())
