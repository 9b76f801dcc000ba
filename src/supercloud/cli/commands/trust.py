"""`supercloud trust`."""

from __future__ import annotations

import asyncio
import sys
import time
from enum import StrEnum
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_json, print_rows, print_thing
from supercloud.cli.session import (
    Cloud,
    Name,
    OptionalImage,
    OptionalName,
    OptionalNetwork,
    Output,
    Reactions,
    connect,
    said,
)
from supercloud.cli.session import show as print_one
from supercloud.cli.times import Until
from supercloud.cli.trustgraph import as_dot, as_text, what
from supercloud.client import Client, Place
from supercloud.model.errors import Conflict, Failed, SupercloudError
from supercloud.model.trust import TrustKind, TrustState

app = App(name="trust", help="What clouds let each other do.")
_COLUMNS = ("id", "cloud", "kind", "thing", "to", "state", "delegable", "expires_at")
Kind = Annotated[TrustKind, Parameter(help="what is let")]


class Drawing(StrEnum):
    TEXT = "text"
    JSON = "json"
    DOT = "dot"


@app.command
def grant(
    cloud: Name,
    to: Name,
    /,
    *,
    kind: Kind,
    image: OptionalImage = None,
    network: OptionalNetwork = None,
    to_network: OptionalName = None,
    of: OptionalName = None,
    blanket: OptionalName = None,
    reaction: Reactions = None,
    until: Annotated[Until, Parameter(help="how long from now, as 30d, or until when")] = None,
    delegable: Annotated[bool, Parameter(help="the other cloud may pass it on")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Let another cloud do something. It lasts for 30 days where nothing else is said, 400 at most.

    Example: supercloud trust grant mine 7c9e6679-7425-40de-944b-e07fc1f90ae7 --kind share-image \\
    --image debian --until 90d

    Example: supercloud trust grant mine lab --kind connect --network web --to-network jobs --until 8h

    Example: supercloud trust grant mine 7c9e6679-7425-40de-944b-e07fc1f90ae7 --kind see-findings

    Example: supercloud trust grant mine 7c9e6679-7425-40de-944b-e07fc1f90ae7 --kind order-reactions \\
    --reaction contain:device --reaction restart:device

    Example: supercloud trust grant mine 7c9e6679-7425-40de-944b-e07fc1f90ae7 --kind place --blanket big

    What another cloud lets this one do is passed on in the same way, if it may be.

    Args:
        cloud: The cloud that grants it.
        to: The cloud that is trusted: one of yours by its name, another's by its id (cloud show).
        image: Of share-image: the image that it may begin instances and volumes with.
        network: Of connect: the network to whose instances connections may be begun.
        to_network: Of connect: the network of the other cloud from which they may; another's by its id.
        reaction: Of order-reactions: what it may order, as restart:device; may be repeated.
        blanket: Of place and migrate-to: the blanket inside which it may have its own; another's by its id.
        of: Of see-findings and order-reactions: the cloud, by its id, of which that is passed on.
    """
    client = connect()
    about = {"image": image, "network": network, "to_network": to_network, "of": of, "blanket": blanket}
    body: dict[str, Any] = {"kind": kind, "cloud": cloud, "to": to, "delegable": delegable}
    body |= {"reactions": reaction or []}
    body |= {key: one for key, one in about.items() if one is not None}
    if until is not None:
        body["lasts_s"] = until - time.time()
    made = client.post("/trust", body)
    if to not in {made["to"], made["to_id"]}:  # the key store is told what is answered here
        raise Failed(
            f"another cloud was trusted: {made['to_id']}", hint=f"supercloud trust revoke {made['id']}"
        )
    waiting = made["needs_approval"] and not _let_out(client, made, must=False)
    if output is Format.JSON:
        print_thing(made, output)
    said(f"cloud {made['cloud']} trusts cloud {made['to']}: {what(made)} ({made['id']})", output)
    if waiting:
        sys.stderr.write(
            f"the image's key is one cloud's alone: whoever has the key store lets it out by\n"
            f"supercloud trust approve {made['id']}\n"
        )


@app.command
def ls(
    *,
    cloud: Cloud = None,
    kind: Annotated[TrustKind | None, Parameter(help="only of this kind")] = None,
    state: Annotated[TrustState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List what your clouds grant, what they are granted, and what was made from theirs.

    One that has ended is shown for 30 days.

    Example: supercloud trust ls --cloud mine --state active
    """
    print_rows(connect().all("/trust", cloud=cloud, kind=kind, state=state), _COLUMNS, output)


@app.command
def show(relation: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one.

    Example: supercloud trust show 7c9e6679-7425-40de-944b-e07fc1f90ae7
    """
    print_one(f"/trust/{relation}", output)


@app.command
def revoke(relation: Name, /, *, output: Output = Format.TABLE) -> None:
    """Let one end now, and all that was made from it.

    What runs with an image runs on, and nothing begins with it any more. Connections of networks are cut.
    Blankets that the other cloud has inside yours run on, and nothing begins or arrives in them; `trust show`
    says which they are, and `blanket rm ID --force` ends them.

    Example: supercloud trust revoke 7c9e6679-7425-40de-944b-e07fc1f90ae7
    """
    ended = connect().post(f"/trust/{relation}/revoke")
    if output is Format.JSON:
        print_thing(ended, output)
    said(f"cloud {ended['cloud']} trusts {ended['to']} no more: {what(ended)}", output)


@app.command
def approve(relation: Name, /, *, output: Output = Format.TABLE) -> None:
    """Have the key store of this machine let the key of a shared backup out, for as long as that is shared.

    A backup's key is its cloud's alone, and the key store believes nobody but its owner. `trust grant` does
    this by itself where the key store is.

    Example: supercloud trust approve 7c9e6679-7425-40de-944b-e07fc1f90ae7
    """
    client = connect()
    found = client.get(f"/trust/{relation}")
    if found["needs_approval"]:
        _let_out(client, found, must=True)
    if output is Format.JSON:
        print_thing(found, output)
    said(f"blankets of cloud {found['to']} may have the key of image {found['thing']}", output)


@app.command
def graph(
    *,
    cloud: Cloud = None,
    every: Annotated[bool, Parameter(name="--all", help="with those that have ended")] = False,
    output: Annotated[Drawing, Parameter(name=["--output", "-o"], help="text, json or dot (Graphviz)")] = (
        Drawing.TEXT
    ),
) -> None:
    """Draw them: each cloud with what it grants, and below that what was made from it.

    Example: supercloud trust graph

    Example: supercloud trust graph -o dot
    """
    state = None if every else TrustState.ACTIVE
    found = connect().all("/trust", cloud=cloud, state=state)
    if output is Drawing.JSON:
        print_json(found)
    elif output is Drawing.DOT:
        sys.stdout.write(as_dot(found))
    elif found:
        sys.stdout.write(as_text(found))
    else:
        sys.stderr.write("(none)\n")


# ---------------------------------------------------------------- inside


def _let_out(client: Client, relation: dict[str, Any], *, must: bool) -> bool:
    """Tell the owner's key store, if it is on this machine. Whether it was told.

    Raises:
        Conflict: the relation has ended.
        SupercloudError: the key store's word, or (`must`) it is not here.
    """
    from supercloud.keystore.client import RemoteOwner
    from supercloud.keystore.faces import ImageShare
    from supercloud.keystore.server import owner_socket

    socket = Place.default().keystore_socket
    if not must and not owner_socket(socket).exists():
        return False
    if relation["state"] != TrustState.ACTIVE:
        raise Conflict(f"that relation is {relation['state']}")
    share = ImageShare(
        id=relation["id"],
        digest=relation["digest"],
        of=relation["cloud_id"],
        to=relation["to_id"],
        until=relation["expires_at"],
        delegable=relation["delegable"],
        parent=relation["parent"],
    )

    async def told() -> None:
        owner = RemoteOwner(socket)
        try:
            await owner.share_image_key(share=share)
            if client.get(f"/trust/{share.id}")["state"] != TrustState.ACTIVE:  # it ended meanwhile
                await owner.withdraw_image_key(share=share.id)
                raise Conflict("that relation was revoked meanwhile")
        finally:
            await owner.close()

    try:
        asyncio.run(told())
    except SupercloudError as error:
        if must:
            raise
        raise Failed(
            f"it is granted, but the key store did not let the key out: {error.message}",
            hint=f"supercloud trust approve {relation['id']}",
        ) from error
    return True
