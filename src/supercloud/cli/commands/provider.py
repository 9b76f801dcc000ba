"""`supercloud provider`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.bounds import NO_TERMS, TermsOptions
from supercloud.cli.moves import follow
from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Name, Output, Wait, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.model.errors import InvalidInput

app = App(name="provider", help="Domains with their platforms.")
_COLUMNS = (
    "name",
    "kind",
    "accelerator",
    "nesting",
    "confidentiality",
    "location",
    "accepted",
    "draining",
    "blankets",
)


@app.command
def add(
    name: Name,
    /,
    *,
    kind: str = "qemu",
    option: Annotated[list[str] | None, Parameter(help="KEY=VALUE for the platform's driver")] = None,
    terms: TermsOptions = NO_TERMS,
    output: Output = Format.TABLE,
) -> None:
    """Add a domain with its platform.

    Example: supercloud provider add north --kind qemu --location de-by --vcpu-hour 0.01 --currency EUR

    Example: supercloud provider add mh --kind microhypervisor --option partitions=2 --option memory_mib=2048

    Args:
        name: What to call it.
        kind: Of its platform: qemu, microhypervisor, or simulated for trying things out.
    """
    options = dict(pair(text) for text in option or [])
    provider = connect().post(
        "/providers", {"name": name, "kind": kind, "options": options, **terms.body({})}
    )
    if output is Format.JSON:
        print_thing(provider, output)
    said(f"provider {name}: {provider['accelerator']} ({provider['reason']})", output)


def pair(text: str) -> tuple[str, str]:
    """Of an option. Raises: InvalidInput."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f"--option {text!r} is not KEY=VALUE")
    return key, value


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List providers.

    Example: supercloud provider ls
    """
    print_list("/providers", _COLUMNS, output)


@app.command
def show(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one, with what its platform declares of itself.

    Example: supercloud provider show north
    """
    print_one(f"/providers/{name}", output)


@app.command(name="set")
def set_terms(
    name: Name,
    /,
    *,
    terms: TermsOptions = NO_TERMS,
    no_location: Annotated[bool, Parameter(negative="", help="it does not say where it is")] = False,
    no_price: Annotated[bool, Parameter(negative="", help="it does not say what it costs")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Say where a provider is and what it costs. What is not given stays; nothing moves because of it.

    Example: supercloud provider set north --location de-by --gib-hour 0.004
    """
    client = connect()
    now = client.get(f"/providers/{name}")
    now |= {"location": None} if no_location else {}
    now |= {"price": None} if no_price else {}
    provider = client.put(f"/providers/{name}/terms", terms.body(now))
    if output is Format.JSON:
        print_thing(provider, output)
    price = provider["price"]
    costs = (
        f"{price['vcpu_hour']} a vCPU, {price['gib_hour']} a GiB, {price['currency']}"
        if price
        else "not said"
    )
    said(f"provider {name}: location {provider['location'] or 'not said'}, an hour {costs}", output)


@app.command
def drain(name: Name, /, *, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Move all that runs there away, live; from now on nothing new comes there. Ctrl-C cancels the rest.

    Exit status 1 if something stays; of your own clouds, what and why is said.

    Example: supercloud provider drain north
    """
    client = connect()
    operation = client.post(f"/providers/{name}/drain")
    follow(client, operation, f"draining {name}", output, wait=wait)


@app.command
def accept(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Let a domain that its provider has registered run blankets, by a driver on the control plane's machine.

    Example: supercloud provider accept north
    """
    provider = connect().post(f"/providers/{name}/accept")
    if output is Format.JSON:
        print_thing(provider, output)
    said(f"provider {name} is accepted: {provider['accelerator']} ({provider['reason']})", output)


@app.command
def undrain(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Let instances and blankets come there again. A drain that is under way is cancelled.

    Example: supercloud provider undrain north
    """
    provider = connect().post(f"/providers/{name}/undrain")
    if output is Format.JSON:
        print_thing(provider, output)
    said(f"provider {name} takes instances again", output)


@app.command
def rm(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Remove one that has no blankets.

    Example: supercloud provider rm north
    """
    connect().delete(f"/providers/{name}")
    said(f"provider {name} removed", output, removed=name)
