"""`supercloud key`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from cyclopts import App

from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Name, Output
from supercloud.client import Place
from supercloud.client.place import FIRST_KEY, KEY_VARIABLE
from supercloud.model.errors import Conflict
from supercloud.trust.files import read_private, write_private

if TYPE_CHECKING:
    from supercloud.trust.keys import IdentityKey

app = App(
    name="key",
    help=f"Keys of yours: who you are. ${KEY_VARIABLE} names the one to use, {FIRST_KEY} unless it is set.",
)
_COLUMNS = ("name", "key", "token", "used")


@app.command
def new(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Make a key. Its private part stays in a file of yours; what is shown is its public part.

    Example: supercloud key new alice

    Args:
        name: What to call it here.
    """
    from supercloud.trust.keys import IdentityKey

    place = Place.default()
    made = IdentityKey.new()
    place.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        write_private(place.key_file(name), made.to_pem().encode(), replace=False)
    except FileExistsError as error:
        raise Conflict(f"there is a key {name} already", hint=f"supercloud key show {name}") from error
    if output is Format.JSON:
        print_thing(_shown(place, name), output)
        return
    sys.stdout.write(f"{made.name}\n")


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List the keys that are here.

    Example: supercloud key ls
    """
    place = Place.default()
    names = sorted(path.stem for path in place.keys.glob("*.pem"))
    print_rows([_shown(place, name) for name in names], _COLUMNS, output)


@app.command
def show(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show the public part of a key, which others need to hand you a token.

    Example: supercloud key show alice -o json
    """
    print_thing(_shown(Place.default(), name), output)


def load(place: Place, name: str | None = None) -> IdentityKey:
    """The key of that name, or the one in use.

    Raises:
        NotFound, Denied: as trust.files.read_private.
    """
    from supercloud.trust.keys import IdentityKey

    return IdentityKey.from_pem(read_private(place.key_file(name or used())).decode("ascii", "replace"))


def used() -> str:
    """The name of the key in use."""
    return os.environ.get(KEY_VARIABLE) or FIRST_KEY


def _shown(place: Place, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "key": load(place, name).name,
        "token": place.token_file(name).exists(),
        "used": name == used(),
        "file": str(place.key_file(name)),
    }
