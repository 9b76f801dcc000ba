"""`supercloud domain`: what a provider does with its own domains, over the southbound API."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.bounds import NO_TERMS, TermsOptions, limit_of, mebibytes
from supercloud.cli.commands import domain_security
from supercloud.cli.commands.provider import pair
from supercloud.cli.output import Format, print_rows, print_thing, progress
from supercloud.cli.session import Name, OptionalName, Output, Wait, connect, said
from supercloud.cli.times import Until, seconds
from supercloud.client import SOUTHBOUND, Client
from supercloud.model.domains import WindowState
from supercloud.model.errors import Failed
from supercloud.model.states import BlanketState, OperationState

app = App(name="domain", help="For providers: your own domains, their machines, maintenance and health.")
for about_security in domain_security.COMMANDS:
    app.command(about_security)
_DOMAINS = ("name", "kind", "accepted", "accelerator", "location", "draining", "rented", "capacity")
_MACHINES = ("id", "state", "connected", "vcpus", "memory_mib", "disk_bytes", "in_use", "created_at")
_WINDOWS = ("id", "domain", "state", "begins_at", "ends_at", "drain_ahead_s", "reason")
_DRAINS = ("id", "domain", "state", "done", "in_use", "error", "created_at", "ended_at")
_WAIT_S = 10
_OPEN = ("pending", "running", "cancelling")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CapacityOptions:
    """What a domain rents out at most."""

    machines: Annotated[str | None, Parameter(help="at most so many machines, or none")] = None
    vcpus: Annotated[str | None, Parameter(help="virtual CPUs of all machines, or none")] = None
    memory: Annotated[str | None, Parameter(help="memory of all machines, e.g. 64G, or none")] = None

    def body(self, now: dict[str, Any]) -> dict[str, Any]:
        """As a request has them; what is not given is as `now`. `none` takes a limit away.

        Raises:
            InvalidInput.
        """
        given = {
            "machines": (self.machines, int),
            "vcpus": (self.vcpus, int),
            "memory_mib": (self.memory, mebibytes),
        }
        return {
            key: now.get(key) if text is None else limit_of(key, text, parse)
            for key, (text, parse) in given.items()
        }


NO_CAPACITY = CapacityOptions()


def _connect() -> Client:
    return connect(SOUTHBOUND)


@app.command
def register(
    name: Name,
    /,
    *,
    kind: str = "qemu",
    option: Annotated[list[str] | None, Parameter(help="KEY=VALUE for the platform's driver")] = None,
    terms: TermsOptions = NO_TERMS,
    capacity: CapacityOptions = NO_CAPACITY,
    output: Output = Format.TABLE,
) -> None:
    """Register a domain of yours with its platform. It runs machines once an operator has accepted it.

    Example: supercloud domain register north --kind qemu --location de-by --machines 20 --memory 64G

    Args:
        name: What to call it; users read it.
        kind: Of its platform: qemu, microhypervisor.
    """
    body = {
        "name": name,
        "kind": kind,
        "options": dict(pair(text) for text in option or []),
        **terms.body({}),
        "capacity": capacity.body({}),
    }
    domain = _connect().post("/domains", body)
    if output is Format.JSON:
        print_thing(domain, output)
    said(f"domain {name} is registered; an operator accepts it (supercloud provider accept {name})", output)


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List your domains, with what of them is rented.

    Example: supercloud domain ls
    """
    print_rows(_connect().all("/domains"), _DOMAINS, output)


@app.command
def show(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one.

    Example: supercloud domain show north
    """
    print_thing(_connect().get(f"/domains/{name}"), output)


@app.command(name="set")
def set_terms(
    name: Name,
    /,
    *,
    terms: TermsOptions = NO_TERMS,
    capacity: CapacityOptions = NO_CAPACITY,
    no_location: Annotated[bool, Parameter(negative="", help="it does not say where it is")] = False,
    no_price: Annotated[bool, Parameter(negative="", help="it does not say what it costs")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Say where a domain is, what it costs, and how much it rents out. What is not given stays.

    Example: supercloud domain set north --vcpu-hour 0.01 --currency EUR --machines none
    """
    client = _connect()
    now = client.get(f"/domains/{name}")
    now |= {"location": None} if no_location else {}
    now |= {"price": None} if no_price else {}
    body = {**terms.body(now), "capacity": capacity.body(now["capacity"])}
    domain = client.put(f"/domains/{name}/terms", body)
    if output is Format.JSON:
        print_thing(domain, output)
    said(f"domain {name} says so from now on", output)


@app.command
def machines(
    name: Name,
    /,
    *,
    state: Annotated[BlanketState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List the machines that are rented in a domain, by their ids on its platform.

    Example: supercloud domain machines north
    """
    print_rows(_connect().all(f"/domains/{name}/machines", state=state), _MACHINES, output)


@app.command
def health(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Ask a domain's platform how it and its machines are.

    Exit status 1 if it does not answer.

    Example: supercloud domain health north
    """
    found = _connect().get(f"/domains/{name}/health")
    print_thing(found, output)
    if not found["reachable"]:
        raise Failed(f"the platform of domain {name} cannot be asked: {found['why']}")


@app.command
def drains(
    *,
    state: Annotated[OperationState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List drains of your domains, the newest first: those that are under way, and how others ended.

    Example: supercloud domain drains --state running
    """
    print_rows(_connect().all("/drains", state=state), _DRAINS, output)


@app.command
def drain(name: Name, /, *, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Have what runs in a domain moved away, live; nothing new comes there. Ctrl-C cancels the rest.

    Exit status 1 if something stays.

    Example: supercloud domain drain north
    """
    client = _connect()
    begun = client.post(f"/domains/{name}/drain")
    if not wait:
        print_thing(begun, output)
        return
    with progress(f"draining {name}", quiet=output is Format.JSON) as bar:
        ended = _follow(client, begun, bar)
    if output is Format.JSON:
        print_thing(ended, output)
    if ended["error"]:
        raise Failed(f"{ended['error']}: {ended['in_use']} machines are in use", hint="drain it again later")
    said(f"domain {name} is drained; {ended['in_use']} machines are in use", output)


def _follow(client: Client, drain: dict[str, Any], bar: Any) -> dict[str, Any]:
    """To its end. Ctrl-C asks for it to be cancelled, a second one leaves it to itself."""
    try:
        while drain["state"] in _OPEN:
            bar(f"{drain['in_use']} machines in use", drain["done"])
            drain = client.get(f"/drains/{drain['id']}", wait_s=_WAIT_S)
    except KeyboardInterrupt:
        client = _connect()  # the interrupted request's answer may still be on the old connection
        drain = client.post(f"/drains/{drain['id']}/cancel")
        while drain["state"] in _OPEN:
            bar("cancelling", None)
            drain = client.get(f"/drains/{drain['id']}", wait_s=_WAIT_S)
    return drain


@app.command
def undrain(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Let machines and what runs in them come there again. A drain that is under way is cancelled.

    Example: supercloud domain undrain north
    """
    domain = _connect().post(f"/domains/{name}/undrain")
    if output is Format.JSON:
        print_thing(domain, output)
    said(f"domain {name} is open again", output)


@app.command
def rm(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Remove one in which nothing is rented.

    Example: supercloud domain rm north
    """
    _connect().delete(f"/domains/{name}")
    said(f"domain {name} removed", output, removed=name)


# ---------------------------------------------------------------- maintenance


@app.command
def plan(
    name: Name,
    /,
    *,
    begin: Annotated[Until, Parameter(help="when it may go down: 2h, 7d or 2031-05-01T12:00")],
    end: Annotated[Until, Parameter(help="when it is back")],
    drain_ahead: Annotated[
        str | None, Parameter(help="move away what runs there so long before, e.g. 30m; else it stays")
    ] = None,
    reason: Annotated[str, Parameter(help="for users to read")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Announce that a domain may be down. Nothing new comes there meanwhile; afterwards it is open by itself.

    Example: supercloud domain plan north --begin 2h --end 4h --drain-ahead 30m --reason "new disks"

    Args:
        name: The domain.
    """
    ahead = None if drain_ahead is None else seconds(drain_ahead)
    body = {
        "domain": name, "begins_at": begin, "ends_at": end, "drain_ahead_s": ahead, "reason": reason,
    }  # fmt: skip
    window = _connect().post("/windows", body)
    if output is Format.JSON:
        print_thing(window, output)
    said(f"window {window['id']} of domain {name} is planned", output)


@app.command
def windows(
    name: OptionalName = None,
    /,
    *,
    state: Annotated[WindowState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List windows of maintenance, the last to begin first.

    Example: supercloud domain windows north
    """
    print_rows(_connect().all("/windows", domain=name, state=state), _WINDOWS, output)


@app.command
def unplan(window: Name, /, *, output: Output = Format.TABLE) -> None:
    """Cancel a window. What it has closed is open again.

    Example: supercloud domain unplan 6f9619ff-8b86-4d01-b42d-00c04fc964ff

    Args:
        window: Its id.
    """
    _connect().delete(f"/windows/{window}")
    said(f"window {window} is cancelled", output, removed=window)


@app.command
def events(*, output: Output = Format.TABLE) -> None:
    """Follow what happens to your domains, machines, drains and windows, to findings, orders and acts, until
    Ctrl-C. Of an order it is a `command`.

    Example: supercloud domain events -o json
    """
    import json

    for one in _connect().events():
        if output is Format.JSON:
            sys.stdout.write(json.dumps({"event": one.name, "id": one.id, **one.data}) + "\n")
        elif one.name == "change":
            data = one.data
            state = f": {data['state']}" if data["state"] else ""
            sys.stdout.write(f"{data['subject']} {data['id']} {data['act']}{state}\n")
        elif one.name == "lost":
            sys.stderr.write("lost: list again\n")
        sys.stdout.flush()
