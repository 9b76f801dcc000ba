"""The commands of `supercloud domain` about findings, orders and privileged acts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from supercloud.cli.output import Format, print_json, print_rows, print_thing
from supercloud.cli.session import Name, OptionalName, Output, Reactions, connect, said
from supercloud.cli.times import Until
from supercloud.client import SOUTHBOUND, Client
from supercloud.model.acts import NO_ARGUMENTS, ActKind
from supercloud.model.errors import Conflict, InvalidInput
from supercloud.model.orders import STATUSES

_FINDINGS = ("id", "received_at", "domain", "machine", "severity", "rule", "title", "uid")
_ORDERS = ("id", "state", "domain", "machine", "deadline", "meaning")
_ACTS = ("id", "state", "enforced", "operation", "domain", "machine", "expires_at", "purpose")
#: Events in one request; and bytes that are read at most.
_BATCH, _BYTES = 20, 64 << 20

Which = Annotated[OptionalName, Parameter(help="the domain, if you have several")]


def _connect() -> Client:
    return connect(SOUTHBOUND)


def report(
    file: Annotated[
        Path,
        Parameter(
            help="OCSF events: one, a JSON array, or one a line; - for stdin", allow_leading_hyphen=True
        ),
    ],
    /,
    *,
    domain: Which = None,
    output: Output = Format.TABLE,
) -> None:
    """Deliver findings: OCSF events of the class Detection Finding. Those that came before are not doubled.

    Example: supercloud domain report events.json --domain north
    """
    events = list(_read(file))
    client, delivered = _connect(), list[dict[str, Any]]()
    for at in range(0, len(events), _BATCH):
        delivered += client.post("/findings", events[at : at + _BATCH], domain=domain)
    if output is Format.JSON:
        print_json(delivered)
    said(f"{len(delivered)} findings are there", output)


def findings(name: OptionalName = None, /, *, output: Output = Format.TABLE) -> None:
    """List the findings that you delivered, the newest first.

    Example: supercloud domain findings north

    Args:
        name: Of this domain only.
    """
    print_rows(_connect().all("/findings", domain=name), _FINDINGS, output)


def take(
    name: Name,
    orders: Reactions = None,
    /,
    *,
    output: Output = Format.TABLE,
) -> None:
    """Say which orders a domain takes, all of them anew. You are asked for no other.

    Example: supercloud domain take north deny:ipv4_net allow:ipv4_net restart:device

    Args:
        name: The domain.
        orders: What to take (`order kinds`); none: no orders at all.
    """
    taken = _connect().put(f"/domains/{name}/orders", {"takes": orders or []})
    if output is Format.JSON:
        print_thing(taken, output)
    said(f"domain {name} takes {', '.join(taken['takes']) or 'no orders'}", output)


def orders(
    name: OptionalName = None,
    /,
    *,
    every: Annotated[bool, Parameter(name="--all", help="with those that have ended")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List the orders before you, the newest first; as JSON with the OpenC2 command of each.

    Example: supercloud domain orders north -o json

    Args:
        name: Of this domain only.
    """
    print_rows(_connect().all("/commands", domain=name, every=every or None), _ORDERS, output)


def answer(
    order: Name,
    /,
    *,
    status: Annotated[int, Parameter(help="of OpenC2: 102 taken, 200 done, 4xx refused, 5xx failed")],
    text: Annotated[str | None, Parameter(help="for the user to read")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say what became of an order: first that it is taken, then how it ended.

    Example: supercloud domain answer 7c9e6679-7425-40de-944b-e07fc1f90ae7 --status 200

    Args:
        order: Its id.
    """
    if status not in STATUSES:
        raise InvalidInput(f"{status} is no status of OpenC2", hint=f"one of {sorted(STATUSES)}")
    body = {"status": status} if text is None else {"status": status, "status_text": text}
    found = _connect().post(f"/commands/{order}/response", body)
    if output is Format.JSON:
        print_thing(found, output)
    said(f"order {order} is {found['state']}", output)


def ask(
    machine: Name,
    act: ActKind,
    /,
    *,
    page: Annotated[
        int | None, Parameter(help="the first page of 4 KiB, of a dump or an introspection")
    ] = None,
    pages: Annotated[int | None, Parameter(help="how many, up to 64")] = None,
    arguments: Annotated[str, Parameter(help="sha256:DIGEST of other arguments")] = NO_ARGUMENTS,
    purpose: Annotated[str, Parameter(help="for the user to read")],
    until: Annotated[Until, Parameter(help="until when it would be done")],
    begin: Annotated[Until, Parameter(help="not before; now, if it is left out")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Ask the user of a machine for one privileged act; where that is enforced, of pages of its memory.

    Example: supercloud domain ask 7c9e6679-7425-40de-944b-e07fc1f90ae7 dump --page 4096 --pages 16 \\
    --until 2h --purpose "a crash"

    Args:
        machine: By its id on the platform.
        act: What would be done to it.
    """
    body = {
        "operation": act,
        "machine": machine,
        "arguments": arguments,
        "page": page,
        "pages": pages,
        "purpose": purpose,
        "not_before": int(time.time() if begin is None else begin),
        "expires_at": int(until or 0),
    }
    asked = _connect().post("/acts", body)
    if output is Format.JSON:
        print_thing(asked, output)
    how = "a consent that the machine's monitor checks" if asked["enforced"] else "a word: procedural only"
    said(f"act {asked['id']} is asked for; its user grants it by {how}", output)


def acts(name: OptionalName = None, /, *, output: Output = Format.TABLE) -> None:
    """List the privileged acts that you asked for, and what became of them; the newest first.

    Example: supercloud domain acts north

    Args:
        name: Of this domain only.
    """
    rows = _connect().all("/acts", domain=name)
    if output is Format.TABLE:
        rows = [{**row, **row["statement"], "machine": row["statement"]["object"]} for row in rows]
    print_rows(rows, _ACTS, output)


def withdraw(act: Name, /, *, output: Output = Format.TABLE) -> None:
    """Take back that you asked for an act.

    Example: supercloud domain withdraw 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        act: Its id.
    """
    ended = _connect().post(f"/acts/{act}/withdraw")
    if output is Format.JSON:
        print_thing(ended, output)
    said(f"act {act} is {ended['state']}", output)


def perform(act: Name, /, *, output: Output = Format.TABLE) -> None:
    """Do an act that the machine's monitor enforces. Without its user's consent it refuses, and tells.

    Example: supercloud domain perform 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        act: Its id.
    """
    done = _connect().post(f"/acts/{act}/perform")
    if output is Format.JSON:
        print_thing(done, output)
    said(f"act {act} is {done['state']}; its pages are sealed to the machine's user", output)


def export(
    act: Name,
    /,
    *,
    to: Annotated[Path, Parameter(help="a new file")],
    output: Output = Format.TABLE,
) -> None:
    """Fetch what an act gave, as JSON: pages that only the machine's user opens.

    Example: supercloud domain export 7c9e6679-7425-40de-944b-e07fc1f90ae7 --to sealed.json

    Args:
        act: Its id.
    """
    found = _connect().get(f"/acts/{act}/export")
    try:
        with to.open("x") as file:
            json.dump(found, file)
    except FileExistsError as error:
        raise Conflict(f"{to} exists already") from error
    if output is Format.JSON:
        print_thing({"act": act, "pages": len(found["pages"]), "file": str(to)}, output)
    said(f"{len(found['pages'])} sealed pages are in {to}", output)


COMMANDS = (report, findings, take, orders, answer, ask, acts, perform, export, withdraw)


# ---------------------------------------------------------------- inside


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """
    Raises:
        InvalidInput: it holds something else.
    """
    source = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    with source:
        text = source.read(_BYTES + 1)
    if len(text) > _BYTES:
        raise InvalidInput(f"{file} has more than {_BYTES} bytes", hint="deliver it in parts")
    for number, one in enumerate(_parsed(text, file)):
        if not isinstance(one, dict):
            raise InvalidInput(f"{file}: event {number} is no JSON object")
        yield one


def _parsed(text: bytes, file: Path) -> list[Any]:
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise InvalidInput(f"{file} is too deep") from error
    except ValueError:
        return [_line(number, line, file) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return found if isinstance(found, list) else [found]


def _line(number: int, line: bytes, file: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file}, line {number}: {error}", hint="OCSF events as JSON") from error
