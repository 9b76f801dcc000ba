"""`supercloud indicator`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_json, print_rows
from supercloud.cli.session import Name, Output, connect
from supercloud.model.errors import InvalidInput

app = App(name="indicator", help="Addresses that others share, as STIX 2.1.")


@app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    cloud: Annotated[Name, Parameter(name=["--cloud", "-c"], help="whose horizontal policy decides")],
    output: Output = Format.TABLE,
) -> None:
    """Have a cloud's horizontal policy decide about the addresses of a STIX bundle (rule: shared-indicator).

    Used are indicators whose pattern names IPv4 addresses; of everything else it is said why not.

    Example: supercloud indicator import bundle.json --cloud mine

    Args:
        file: A bundle of STIX 2.1; - is standard input.
    """
    from supercloud.security.stix import BYTES

    if len(content := _read(file, BYTES + 1)) > BYTES:
        raise InvalidInput(f"{file} is larger than {BYTES >> 10} KiB", hint="import it in parts")
    try:
        bundle = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is no UTF-8 text") from error
    found = connect().post(f"/clouds/{cloud}/indicators", {"bundle": bundle})
    if output is Format.JSON:
        print_json(found)
        return
    print_rows(found["unused"], ("id", "why"), output)
    print(f"{len(found['addresses'])} addresses, {len(found['unused'])} objects not used")


def _read(file: Path, most: int) -> bytes:
    """
    Raises:
        InvalidInput: it cannot be read.
    """
    if str(file) == "-":
        return sys.stdin.buffer.read(most)
    try:
        with file.open("rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
