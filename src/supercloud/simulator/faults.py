"""What can be done to a world, by name. Each fault heals by itself, so that an end can be asked for."""

from __future__ import annotations

from collections.abc import Callable

from supercloud.simulator.world import SimWorld

#: Takes the world, and for how long (None: as long as makes sense for it, drawn).
Fault = Callable[[SimWorld, float | None], None]


def _long(world: SimWorld, seconds: float | None) -> float:
    """Longer than a right, unless said."""
    return seconds or world.terms.length_s + world.terms.margin_s + world.random.uniform(3, 20)


def _for(world: SimWorld, seconds: float, heal: Callable[[], None]) -> None:
    world.network.later(seconds, heal)


def _kill_controller(world: SimWorld, _: float | None) -> None:
    world.controller.kill()


def _hang_controller(world: SimWorld, seconds: float | None) -> None:
    world.controller.hang(on=True)
    _for(world, _long(world, seconds), lambda: world.controller.hang(on=False))


def _restart_store(world: SimWorld, _: float | None) -> None:
    world.controller.restart_store()


def _restore_store(world: SimWorld, _: float | None) -> None:
    world.controller.restore_store()


def _slow_store(world: SimWorld, seconds: float | None) -> None:
    disk = world.controller.disk
    disk.slow_commit_s = 6.0

    def heal() -> None:
        disk.slow_commit_s = 0.0

    _for(world, seconds or 40, heal)


def _kill(what: str, where: str) -> Fault:
    def fault(world: SimWorld, seconds: float | None) -> None:
        blanket = world[where]
        if blanket.up and not blanket.machine.stopped:
            kill: dict[str, Callable[[], None]] = {
                "agent": blanket.kill_agent,
                "keeper": blanket.kill_keeper,
                "instance": blanket.kill_qemus,
                "blanket": lambda: blanket.reset("power cut"),
            }
            kill[what]()

    return fault


def _hang(what: str, where: str) -> Fault:
    def fault(world: SimWorld, seconds: float | None) -> None:
        blanket = world[where]
        if not blanket.up:
            return
        process = blanket.agent_process if what == "agent" else blanket.keeper_process
        process.hung = True

        def heal() -> None:
            process.hung = False

        _for(world, _long(world, seconds), heal)

    return fault


def _stop(where: str, *, long: bool) -> Fault:
    def fault(world: SimWorld, seconds: float | None) -> None:
        stands_s = _long(world, seconds) if long else world.random.uniform(0.2, 12)
        if world[where].up:
            world[where].stop()
            _for(world, stands_s, world[where].go_on)

    return fault


def _roll_back(where: str) -> Fault:
    return lambda world, _: world[where].roll_back()


def _cut(*pairs: tuple[str, str], long: bool) -> Fault:
    def fault(world: SimWorld, seconds: float | None) -> None:
        cut_s = _long(world, seconds) if long else world.random.uniform(0.5, 12)
        for pair in pairs:
            world.network.cut(*pair)
            _for(world, cut_s, lambda pair=pair: world.network.heal(*pair))  # type: ignore[misc]

    return fault


def _delay(one: str, other: str) -> Fault:
    """Frames from `one` to `other` are late by so many seconds, until the end."""

    def fault(world: SimWorld, seconds: float | None) -> None:
        world.network.late[one, other] = seconds or 5.0

    return fault


#: Those that a schedule may draw.
FAULTS: dict[str, Fault] = {
    "kill controller": _kill_controller,
    "hang controller": _hang_controller,
    "restart store": _restart_store,
    "restore store": _restore_store,
    "slow store": _slow_store,
    **{
        f"kill {what} {where}": _kill(what, where)
        for what in ("agent", "keeper", "instance", "blanket")
        for where in ("north", "south")
    },
    **{
        f"hang {what} {where}": _hang(what, where)
        for what in ("agent", "keeper")
        for where in ("north", "south")
    },
    **{f"stop {where}": _stop(where, long=True) for where in ("north", "south")},
    **{f"stop {where} briefly": _stop(where, long=False) for where in ("north", "south")},
    **{f"roll back {where}": _roll_back(where) for where in ("north", "south")},
    **{
        f"cut {one} {other}{'' if long else ' briefly'}": _cut((one, other), long=long)
        for one, other in (
            ("control", "north"),
            ("control", "south"),
            ("control", "west"),
            ("north", "south"),
        )
        for long in (True, False)
    },
    "cut north off": _cut(("control", "north"), ("north", "south"), ("north", "west"), long=True),
    "cut south off": _cut(("control", "south"), ("north", "south"), ("south", "west"), long=True),
}
#: And those that only a schedule made by hand uses.
SPECIAL: dict[str, Fault] = {"delay control north": _delay("control", "north")}
