"""Following a move of several instances, and saying what became of each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from supercloud.cli.output import Format, print_thing, printable
from supercloud.cli.session import connect, finish
from supercloud.model.errors import SupercloudError, Unavailable

if TYPE_CHECKING:
    from supercloud.client import Client


def follow(client: Client, operation: Mapping[str, Any], title: str, output: Format, *, wait: bool) -> None:
    """
    Raises:
        SupercloudError: some did not move; each was named by then.
    """
    try:
        ended = finish(client, operation, title, output, wait=wait)
    except Unavailable:
        raise  # nobody knows how it stands
    except SupercloudError:
        seen = connect().get(f"/operations/{operation['id']}")
        if output is Format.JSON:
            print_thing(seen, output)
        else:
            _tell(seen, sys.stderr)
        raise
    if ended and output is Format.TABLE:
        _tell(ended, sys.stdout)


def _tell(operation: Mapping[str, Any], to: Any) -> None:
    for one in (operation["result"] or {}).get("instances", ()):
        to.write(printable(f"{one['name']}: {_said(one)}") + "\n")


def _said(one: Mapping[str, Any]) -> str:
    if one["end"] == "moved":
        return f"{one['was_in']} to {one['is_in']}"
    where = f" in {one['is_in']}" if one["is_in"] else ""
    return f"{one['end'].replace('-', ' ')}{where}" + (f": {one['why']}" if one["why"] else "")
