"""`python -m tests.system.faults`: the full matrix on a system of its own, which is removed at the end."""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from supercloud.client import Place
from supercloud.model.errors import SupercloudError

from .cells import Cell, matrix, sample
from .machines import destroy_all
from .results import Results
from .run import left_in_order, run
from .system import Late, System

_CLOUD = _NETWORK = "faults"
_IMAGE = "demo-debian"
#: Short, since most faults last longer than a right; long enough for a machine that emulates everything.
_RIGHT_S = 30.0


def main() -> int:
    """Exit status 1 if anything was not as promised."""
    options = _options()
    cells = _chosen(options)
    if options.list:
        for cell in cells:
            print(cell.name)
        return 0
    results = Results(options.results)
    left = [cell for cell in cells if options.again or not results.has(cell)]
    if not left:
        results.write()
        _say("every cell that was asked for has been run; --again repeats them")
        return 0
    bad = 0
    signal.signal(signal.SIGTERM, _end_in_order)
    with _system() as system:
        for number, cell in enumerate(left, 1):
            _say(f"{number} of {len(left)}: {cell.name}")
            bad += _try(system, cell, results)
    return int(bad > 0)


def _end_in_order(*_: object) -> None:
    """What was made is removed then, too."""
    raise SystemExit(128 + signal.SIGTERM)


def _try(system: System, cell: Cell, results: Results) -> bool:
    """Whether it was not as promised."""
    try:
        with left_in_order(system):
            result = run(system, cell, say=lambda text: _say(f"  {text}"))
    except (Late, SupercloudError, AssertionError) as error:
        _say(f"  the scene could not be set: {error}")
        return True  # left out of the results: it is tried again by the next run
    results.put(result)
    _say(f"  {result.end}; copies {result.copies}; {result.disk}; {result.took_s:.0f} s")
    for wrong in result.wrong:
        _say(f"  WRONG: {wrong}")
    return bool(result.wrong)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.system.faults", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("docs/faults.json"), help="where they go, and are kept"
    )
    parser.add_argument(
        "--only", metavar="PATTERN", help="cells whose name holds this, or matches it with * and ?"
    )
    parser.add_argument(
        "--seed", type=int, help="the small sample that this seed chooses, in an order of its own"
    )
    parser.add_argument("--list", action="store_true", help="name the cells and end")
    parser.add_argument("--again", action="store_true", help="run what has been run already, too")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> Sequence[Cell]:
    cells = matrix()
    if options.seed is not None:
        cells = sample(options.seed)
        random.Random(options.seed).shuffle(cells)  # noqa: S311 - an order that a seed repeats
    if options.only:
        cells = [one for one in cells if options.only in one.name or fnmatch.fnmatch(one.name, options.only)]
    return cells


def _say(text: str) -> None:
    sys.stderr.write(f"faults: {time.strftime('%H:%M:%S')} {text}\n")


@contextmanager
def _system() -> Iterator[System]:
    """Two domains, a blanket with a shell in each; gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="sc-"))  # short: a socket's path has at most 107 bytes
    os.environ["SUPERCLOUD_HOME"] = str(home)
    system = System(
        place=Place(home),
        cloud=_CLOUD,
        network=_NETWORK,
        image=_IMAGE,
        blankets={"n1": "north", "s1": "south"},
        debug_shell=True,
    )
    try:
        _make(system)
        yield system
    finally:
        _end(system)
        shutil.rmtree(home)


def _make(system: System) -> None:
    from supercloud.cli.commands.image import import_image
    from supercloud.images.guest import build_guest

    _say("making two domains and a cloud")
    system.up()
    client = system.client()
    for provider in system.blankets.values():
        client.post("/providers", {"name": provider, "kind": "qemu"})
    client.post("/clouds", {"name": _CLOUD, "right_length_s": _RIGHT_S})
    client.post("/networks", {"name": _NETWORK, "cloud": _CLOUD, "cidr": "10.78.0.0/24"})
    with redirect_stdout(sys.stderr):
        import_image(build_guest() / "guest.qcow2", name=_IMAGE)
    system.add_blankets()
    _say("two blankets are up; booting the instance")
    system.ready()


def _end(system: System) -> None:
    """Past the control plane, which may be anywhere in an operation: its machines first of all."""
    _say("removing the system")
    system.control().down()
    destroy_all(system.place.home / "controlplane" / "platforms")


if __name__ == "__main__":
    sys.exit(main())
