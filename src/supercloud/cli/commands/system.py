"""`supercloud up`, `down`, `status`, `backup`, `restore`, `doctor`."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from supercloud.cli.control import ControlPlane
from supercloud.cli.output import Format, print_json, print_rows, print_thing
from supercloud.cli.session import Output, connect, said
from supercloud.cli.took import timed
from supercloud.client import Client, Place
from supercloud.client.place import FIRST_KEY
from supercloud.model.errors import Conflict, InvalidInput

Port = Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))]
_WATCH_EVERY_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"  # the terminal's screen, cursor at its top


def up(*, api_port: Port = None, agents_port: Port = None, output: Output = Format.TABLE) -> None:
    """Start the control plane and the key store on this machine, unless they run.

    The first time it makes your key, the operator's; every command uses it from then on.

    State is kept in $SUPERCLOUD_HOME. $SUPERCLOUD_DATABASE names a PostgreSQL database instead of SQLite.

    Example: supercloud up

    Args:
        api_port: Where the API listens on this machine's loopback; kept from then on.
        agents_port: Where blankets dial in; can be chosen at the first start only.
    """
    control = ControlPlane(Place.default())
    with timed("up", "control plane", control.place.home, quiet=output is Format.JSON) as bar:
        started = control.up(
            api_port=api_port, agents_port=agents_port, progress=lambda phase: bar(phase, None)
        )
    if output is Format.JSON:
        print_json({**connect().get("/status"), "new_key": started.new_key})
    said("the control plane is up" if started.anything else "the control plane was up already", output)
    if started.new_key is not None:
        said(
            f"your key, made now: {started.new_key}\n"
            f"its private part is in {Place.default().key_file(FIRST_KEY)}; "
            "keep a copy, since nobody can make it again",
            output,
        )


def down(*, output: Output = Format.TABLE) -> None:
    """End the control plane and the key store. Blankets and instances run on.

    Example: supercloud down
    """
    control = ControlPlane(Place.default())
    with timed("down", "control plane", control.place.home, quiet=output is Format.JSON) as bar:
        bar("ending", None)
        ended = control.down()
    said(
        "the control plane is down; instances run on" if ended else "nothing was running", output, ended=ended
    )


def status(
    *,
    watch: Annotated[bool, Parameter(negative="", help="show it anew every second, until Ctrl-C")] = False,
    output: Output = Format.TABLE,
) -> None:
    """What runs, and how long the run right of each instance lasts.

    Example: supercloud status --watch
    """
    client = connect()
    _print_status(client, output)
    while watch:
        time.sleep(_WATCH_EVERY_S)
        if output is Format.TABLE:
            sys.stdout.write(_CLEAR if sys.stdout.isatty() else "\n")
        _print_status(client, output)
        sys.stdout.flush()


def _print_status(client: Client, output: Format) -> None:
    found = client.get("/status")
    instances = client.all("/instances")
    if output is Format.JSON:
        print_json({**found, "instances_list": instances})
        return
    print_thing(found, output)
    if instances:
        sys.stdout.write("\n")
        print_rows(instances, ("name", "cloud", "state", "blanket", "epoch", "right_left_s"), output)


def backup(file: Path, /, *, output: Output = Format.TABLE) -> None:
    """Write the control plane's state to a file, while it runs. The key store has a backup of its own.

    Example: supercloud backup cloud.backup
    """
    if file.exists():
        raise Conflict(f"{file} exists", hint="name another file")
    control = ControlPlane(Place.default())
    with timed("backup", "backup", control.place.home, quiet=output is Format.JSON) as bar:
        bar("writing", None)
        control.archive("backup", file.absolute())
    said(
        f"written to {file}; back the key store up as well (see the guide, recovery)",
        output,
        file=str(file),
        size_bytes=file.stat().st_size,
    )


def restore(file: Path, /, *, output: Output = Format.TABLE) -> None:
    """Put the state of a backup in place of the present one. Rights do not move for a while afterwards.

    Example: supercloud down && supercloud restore cloud.backup && supercloud up
    """
    if not file.is_file():
        raise InvalidInput(f"{file} is not a file")
    control = ControlPlane(Place.default())
    if control.running():
        raise Conflict("the control plane runs", hint="supercloud down")
    with timed("restore", "restore", control.place.home, quiet=output is Format.JSON) as bar:
        bar("reading", None)
        control.archive("restore", file.absolute())
    said("restored; supercloud up starts it", output, restored=str(file))


def doctor(*, output: Output = Format.TABLE) -> int:
    """What this machine can do and why, and the commands that install what is missing.

    Exit status 1 if something needed is missing.

    Example: supercloud doctor -o json
    """
    from supercloud.images.blanket import BuiltImages
    from supercloud.images.cache import cache_directory
    from supercloud.platforms.doctor import Verdict, examine

    home = Place.default().home
    with timed("doctor", "looking", cache_directory(), quiet=output is Format.JSON) as bar:
        bar("proving what KVM can do", None)
        checks = asyncio.run(examine(BuiltImages(), state_dir=home, cache_dir=cache_directory()))
    if output is Format.JSON:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            sys.stdout.write(f"{check.verdict.value:<5} {check.name}: {check.found}\n")
            if check.hint and check.verdict is not Verdict.OK:
                sys.stdout.write(f"      {check.hint}\n")
    return int(any(check.verdict is Verdict.BAD for check in checks))
