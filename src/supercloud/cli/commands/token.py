"""`supercloud token`. All but minting, listing and revoking is done here, offline."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.commands import key as keys
from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Name, Names, OptionalName, Output, connect, said
from supercloud.cli.times import Until
from supercloud.client import Endpoint, Place
from supercloud.client.place import KEY_VARIABLE
from supercloud.model.errors import Conflict, InvalidInput
from supercloud.model.permissions import Permission
from supercloud.trust import tokens
from supercloud.trust.certificates import Anchors
from supercloud.trust.files import read_private, write_private
from supercloud.trust.tokens import TOKEN_CHARS, Bounds

app = App(
    name="token",
    help="What may be asked for, by whom, until when. A token is of use with its holder's key only.",
)
_COLUMNS = ("id", "principal", "only", "clouds", "expires_at", "revoked")
_SHORT = 16

Only = Annotated[
    list[str] | None,
    Parameter(name="--only", consume_multiple=True, help="permissions, such as vm:read; reading is implied"),
]
Clouds = Annotated[
    Names, Parameter(name=["--cloud", "-c"], consume_multiple=True, help="clouds, by name or id")
]
Into = Annotated[Path | None, Parameter(help="a file of yours to write it to, instead of printing it")]
File = Annotated[Path | None, Parameter(name="--token", help="a file with the token; - is standard input")]


@app.command
def mint(
    *,
    for_: Annotated[
        OptionalName, Parameter(name="--for", help="the principal; yourself unless named")
    ] = None,
    only: Only = None,
    cloud: Clouds = None,
    until: Annotated[Until, Parameter(help="how long, as 30d, or until when; 90 days unless given")] = None,
    into: Into = None,
    output: Output = Format.TABLE,
) -> None:
    """Have a fresh token signed, and print it. It is bound to the principal's key.

    Example: supercloud token mint --for alice --until 30d --into alice.token
    """
    _must_be_free(into)
    bounds = _bounds(only, cloud, until)
    request: dict[str, Any] = {
        "principal": for_,
        "only": None if bounds.only is None else sorted(bounds.only),
        "clouds": None if bounds.clouds is None else sorted(bounds.clouds),
    }
    if until is not None:
        request["lasts_s"] = until - time.time()
    minted = connect().post("/tokens", request)
    _give(minted["token"], minted, into, output)


@app.command
def attenuate(
    *,
    token: File = None,
    only: Only = None,
    cloud: Clouds = None,
    until: Annotated[Until, Parameter(help="how long from now, as 2h, or until when")] = None,
    into: Into = None,
    output: Output = Format.TABLE,
) -> None:
    """Print the token with less in it. Nobody is asked; nobody can put back what was left out.

    Example: supercloud token attenuate --cloud mine --only vm:read --until 2h
    """
    text = tokens.attenuate(_read(token), _bounds(only, cloud, until))
    _give(text, _named(text), into, output)


@app.command
def hand_on(
    to: Annotated[str, Parameter(help="the next holder's public key")],
    /,
    *,
    token: File = None,
    only: Only = None,
    cloud: Clouds = None,
    until: Annotated[Until, Parameter(help="how long from now, as 2h, or until when")] = None,
    into: Into = None,
    output: Output = Format.TABLE,
) -> None:
    """Print the token for another holder, signed by your key. From then on only their key can use that one.

    Example: supercloud token hand-on ed25519/b0b… --only vm:read --until 2h
    """
    if not tokens.is_key(to):
        raise InvalidInput(f"{to!r} is not a public key", hint="supercloud key show NAME prints it")
    text = tokens.hand_on(_read(token), keys.load(Place.default()), to, _bounds(only, cloud, until))
    _give(text, _named(text), into, output)


@app.command
def show(*, token: File = None, output: Output = Format.TABLE) -> None:
    """Say what is in a token: whose it is, who holds it, what each block leaves of it.

    Example: supercloud token show --token alice.token
    """
    found = tokens.peek(_read(token))
    shown: dict[str, Any] = {
        "id": found.revocation_ids[-1],
        "principal": found.principal,
        "roles": sorted(found.roles),
        "minted_for": found.minted_for,
        "holder": found.holder,
        "expires_at": found.until,
        "blocks": list(found.blocks),
        "revocation_ids": list(found.revocation_ids),
    }
    if output is Format.JSON:
        print_thing(shown, output)
        return
    print_thing(
        {name: value for name, value in shown.items() if name not in {"blocks", "revocation_ids"}}, output
    )
    for number, block in enumerate(found.blocks):
        sys.stdout.write(
            f"\nblock {number}\n" + "".join(f"  {line}\n" for line in block.strip().splitlines())
        )


@app.command
def use(
    name: Name,
    /,
    *,
    token: File = None,
    at: Annotated[str | None, Parameter(help="HOST:PORT of somebody else's control plane")] = None,
    authority: Annotated[Path | None, Parameter(help="with --at: its authority.pem")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Keep a token beside the key that holds it, so that commands use it: SUPERCLOUD_KEY=NAME supercloud …

    Example: supercloud token use bob --token from-alice.token

    Example: supercloud token use bob --token bob.token --at 127.0.0.1:7443 --authority authority.pem

    Args:
        name: The key's name here, see supercloud key ls.
    """
    if (at is None) != (authority is None):
        raise InvalidInput("--at and --authority belong together")
    place, text = Place.default(), _read(token)
    holder = tokens.peek(text).holder
    if holder != keys.load(place, name).name:
        raise InvalidInput(f"key {name} does not hold that token: {holder} does")
    if at is not None and authority is not None:
        _point(place, at, authority)
    write_private(place.token_file(name), text.encode() + b"\n")
    said(f"commands with {KEY_VARIABLE}={name} use it", output, key=name, holder=holder)


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List the tokens that were minted and have not expired. What was made of them is known to nobody.

    Example: supercloud token ls
    """
    found = connect().all("/tokens")
    short = found if output is Format.JSON else [{**one, "id": one["id"][:_SHORT]} for one in found]
    print_rows(short, _COLUMNS, output)


@app.command
def revoke(
    id: Annotated[
        str | None, Parameter(help="of a minted one, or how it begins: supercloud token ls")
    ] = None,
    /,
    *,
    token: File = None,
    output: Output = Format.TABLE,
) -> None:
    """Let a token count no more, and with it every token that descends from it.

    Example: supercloud token revoke 4f2bb5c0a3b4f5d9

    Example: supercloud token revoke --token leaked.token
    """
    if (id is None) == (token is None):
        raise InvalidInput("name the token by its id or by --token FILE", hint="supercloud token ls")
    request = {"id": id} if token is None else {"token": _read(token)}
    revoked = connect().post("/tokens/revoke", request)
    said(f"token {revoked['id'][:_SHORT]} is revoked, and all that descends from it", output, **revoked)


# ---------------------------------------------------------------- inside


def _point(place: Place, at: str, authority: Path) -> None:
    """From now on, the control plane of this place is somebody else's.

    Raises:
        Conflict: there is one of its own.
        InvalidInput: no such address, or no authority's certificates.
    """
    host, _, port = at.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InvalidInput(f"{at!r} is not HOST:PORT")
    if place.own:
        raise Conflict(f"{place.home} has a control plane of its own", hint="choose another $SUPERCLOUD_HOME")
    try:
        Anchors(authority.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{authority} cannot be read") from error
    write_private(place.authority_file, authority.read_bytes())
    place.save(Endpoint(host=host, port=int(port), authority=str(place.authority_file)))


def _read(file: Path | None) -> str:
    """The token in a file, or the one in use.

    Raises:
        InvalidInput: it cannot be read.
        NotFound, Denied: the one in use cannot.
    """
    if file is None:
        return read_private(Place.default().token_file(keys.used())).decode("ascii", "replace").strip()
    try:
        text = sys.stdin.read(TOKEN_CHARS + 2) if str(file) == "-" else file.read_text()[: TOKEN_CHARS + 2]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read") from error
    return text.strip()


def _bounds(only: list[str] | None, clouds: list[str] | None, until: float | None) -> Bounds:
    return Bounds(
        only=frozenset(_permission(one) for one in only) if only else None,
        clouds=frozenset(clouds) if clouds else None,
        until=until,
    )


def _permission(text: str) -> Permission:
    try:
        return Permission(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a permission", hint=", ".join(Permission)) from error


def _named(text: str) -> dict[str, Any]:
    return {"token": text, "id": tokens.peek(text).revocation_ids[-1]}


def _must_be_free(into: Path | None) -> None:
    """
    Raises:
        Conflict: the file is there already.
    """
    if into is not None and into.exists():
        raise Conflict(f"{into} exists", hint="name another file")


def _give(text: str, about: dict[str, Any], into: Path | None, output: Format) -> None:
    """Print a token, or write it where only its owner reads it. Raises: Conflict."""
    if into is not None:
        _must_be_free(into)
        write_private(into, text.encode() + b"\n", replace=False)
    if output is Format.JSON:
        print_thing(about, output)
    else:
        sys.stdout.write(f"{text}\n" if into is None else f"written to {into}\n")
