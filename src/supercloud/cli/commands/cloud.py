"""`supercloud cloud`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.bounds import NO_QUOTA, QuotaOptions, quota_rows
from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Name, OptionalName, Output, Wait, connect, finish, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one

app = App(name="cloud", help="Self-service clouds.")
_COLUMNS = ("name", "parent", "cpu_model", "right_length_s", "right_margin_s", "blankets", "instances")


@app.command
def create(
    name: Name,
    /,
    *,
    cpu_model: str | None = None,
    right_length: float = 60.0,
    right_margin: float = 15.0,
    right_grace: float = 300.0,
    within: Annotated[
        OptionalName, Parameter(name="--in", help="make it within this cloud, of whose quota its is a slice")
    ] = None,
    owner: Annotated[
        str | None, Parameter(help="the public key of whose it becomes, if not yours; with --in only")
    ] = None,
    quota: QuotaOptions = NO_QUOTA,
    output: Output = Format.TABLE,
) -> None:
    """Create a cloud.

    Example: supercloud cloud create mine --right-length 120

    Example: supercloud cloud create team --in mine --vcpus 8 --memory 16G --blankets 2

    Args:
        name: What to call it.
        cpu_model: The baseline CPU of every instance; instances migrate between blankets that have it.
        right_length: Seconds that a run right lasts; a control plane may be away for nearly that long.
        right_margin: Seconds beyond that before the right may move to another blanket; 15 at least.
        right_grace: Seconds that an instance without a right stays paused before it is stopped.
    """
    cloud = connect().post(
        "/clouds",
        {
            "name": name,
            "cpu_model": cpu_model,
            "right_length_s": right_length,
            "right_margin_s": right_margin,
            "right_grace_s": right_grace,
            "parent": within,
            "owner": owner,
            "quota": quota.body({}),
        },
    )
    if output is Format.JSON:
        print_thing(cloud, output)
    said(f"cloud {name} created", output)


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List clouds.

    Example: supercloud cloud ls
    """
    print_list("/clouds", _COLUMNS, output)


@app.command
def show(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one, with the terms of its run rights.

    Example: supercloud cloud show mine -o json
    """
    print_one(f"/clouds/{name}", output)


@app.command(name="quota")
def set_quota(name: Name, /, *, quota: QuotaOptions = NO_QUOTA, output: Output = Format.TABLE) -> None:
    """Show what a cloud may have and has, or set what it may have; what is not given stays.

    Example: supercloud cloud quota mine --vcpus 16 --disk none

    Of a cloud within another one, only who has that other one can set it.
    """
    client = connect()
    cloud = client.get(f"/clouds/{name}")
    if quota.given:
        cloud = client.put(f"/clouds/{name}/quota", quota.body(cloud["quota"]))
    if output is Format.JSON:
        print_thing({key: cloud[key] for key in ("name", "quota", "used")}, output)
    else:
        print_rows(quota_rows(cloud), ("quantity", "used", "limit"), output)


@app.command
def rotate_keys(name: Name, /, *, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Change the WireGuard key of every blanket, one after another, losing no connection.

    Example: supercloud cloud rotate-keys mine
    """
    client = connect()
    operation = client.post(f"/clouds/{name}/rotate-keys")
    if finish(client, operation, f"rotating keys of {name}", output, wait=wait):
        said(f"every blanket of {name} has a new key", output)


@app.command
def rm(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Remove one that has nothing in it any more.

    Example: supercloud cloud rm mine
    """
    connect().delete(f"/clouds/{name}")
    said(f"cloud {name} removed", output, removed=name)
