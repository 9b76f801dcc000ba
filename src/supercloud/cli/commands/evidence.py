"""`supercloud incident evidence`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.output import Bar, Format, print_json, print_rows, printable, progress
from supercloud.cli.session import Cloud, Name, Output, connect, said
from supercloud.client import Client, Place
from supercloud.model.errors import Conflict, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from supercloud.keystore.faces import EvidenceKey
    from supercloud.trust.evidence import Header

app = App(name="evidence", help="What was kept of instances, which only you can open.")
_COLUMNS = ("id", "at", "instance_name", "memory_bytes", "size_bytes", "whole")
_TRIES = 5
#: Of one scan, of evidence (seconds).
_SCAN_S = 4 * 3600.0
KNOWN, MEMORY = "known.json", "memory.elf"


@app.command
def ls(incident: Name | None = None, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """List what the blanket of an incident keeps about it; or, without one, what all of them keep.

    Example: supercloud incident evidence ls

    Example: supercloud incident evidence ls 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        incident: Its id.
    """
    if incident is not None:
        print_rows(connect().get(f"/incidents/{incident}/evidence"), _COLUMNS, output)
        return
    found = connect().get("/evidence", cloud=cloud)
    if output is Format.JSON:
        print_json(found)
        return
    print_rows(found["evidence"], ("incident", *_COLUMNS, "blanket"), output)
    for one in found["away"]:
        sys.stderr.write(printable(f"what blanket {one['blanket']} keeps is not known: {one['why']}") + "\n")


@app.command
def fetch(
    incident: Name, evidence: Name, /, *, to: Path | None = None, output: Output = Format.TABLE
) -> None:
    r"""Fetch one, sealed as it is. What was interrupted goes on where it was.

    Example: supercloud incident evidence fetch 7c9e6679-7425-40de-944b-e07fc1f90ae7 \
        16fd2706-8baf-433b-82eb-8c7fada847da --to case-1.evidence

    Args:
        incident: Its id.
        evidence: Its id, as ls shows it.
        to: The file; by default its id and `.evidence`, here.
    """
    file = to or Path(f"{evidence}.evidence")
    if file.exists():
        raise Conflict(f"{file} is there already")
    client = connect()
    found = _found(client, incident, evidence)
    with progress(f"fetching {evidence}", quiet=output is Format.JSON) as bar:
        _fetch(client, found, file, bar)
    size = int(found["size_bytes"])
    said(f"{file}: {size} bytes, sealed", output, file=str(file), size_bytes=size)


@app.command(name="open")
def open_it(file: Path, /, *, to: Path | None = None, output: Output = Format.TABLE) -> None:
    """Open one that was fetched, with your key store: its memory as an ELF core, and what was known as JSON.

    Both are written in clear, for you alone to read. They are there once all of the file was found to be as
    its blanket made it.

    Example: supercloud incident evidence open case-1.evidence --to case-1

    Args:
        file: As it was fetched.
        to: A folder, made if it is not there; by default the file's name without its end.
    """
    from supercloud.trust.evidence import Opening, known_and_rest
    from supercloud.trust.keys import from_text

    folder = to or file.with_suffix("")
    known_file, memory_file = folder / KNOWN, folder / MEMORY
    for one in (known_file, memory_file):
        if one.exists():
            raise Conflict(f"{one} is there already")
    with _read(file) as sealed, progress(f"opening {file.name}", quiet=output is Format.JSON) as bar:
        opening = Opening(sealed)
        key = asyncio.run(_key(opening.header))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _fresh(known_file) as known_to, _fresh(memory_file) as memory_to:
            known, rest = known_and_rest(opening.clear(from_text(key.key)))
            known_to.write(known)
            written = 0
            for data in rest:
                written += memory_to.write(data)
                bar("opening", min(1.0, written / max(1, opening.header.memory_bytes)))
            end = opening.end(key.signed_by)
    made_by = "its blanket signed it" if key.signed_by else "nobody knows any more who made it"
    whole = "of one moment" if end.whole else "torn: the instance ran meanwhile"
    facts = {"memory": str(memory_file), "known": str(known_file), "whole": end.whole}
    said(
        f"{memory_file}: {whole}; {made_by}\n{known_file}: what was known\ndigest {opening.digest}",
        output,
        **facts,
        signed=key.signed_by is not None,
        digest=opening.digest,
    )


@app.command
def scan(
    file: Path,
    /,
    *,
    yara: Annotated[
        tuple[Path, ...], Parameter(name="--yara", help="a file or folder of YARA rules, as often as needed")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Scan one that was fetched by YARA's rules, with your key store: nothing of it is written in clear.

    Example: supercloud incident evidence scan case-1.evidence --yara rules/

    Args:
        file: As it was fetched.
    """
    from supercloud.agent.taker import segments
    from supercloud.cli.policy import yara_of
    from supercloud.security.memoryscan import Match, compiled, scanned
    from supercloud.trust.evidence import Opening, known_and_rest
    from supercloud.trust.keys import from_text
    from supercloud.wire.codec import to_json

    rules = compiled(yara_of(yara))
    with _read(file) as sealed, progress(f"scanning {file.name}", quiet=output is Format.JSON) as bar:
        opening = Opening(sealed)
        key = asyncio.run(_key(opening.header))
        _, rest = known_and_rest(opening.clear(from_text(key.key)))
        memory = _watched(segments(rest), opening.header.memory_bytes, bar)
        found = scanned(rules, memory, seconds=_SCAN_S)
        opening.end(key.signed_by)
    rows = [
        {"rule": one.rule, "severity": one.severity, "many": one.many}
        | {"first": hex(one.places[0].address) if one.places else None}
        for one in found
    ]
    if output is Format.JSON:
        print_json([to_json(Match, one) for one in found])
    else:
        print_rows(rows, ("rule", "severity", "many", "first"), output)


@app.command
def rm(incident: Name, evidence: Name, /, *, output: Output = Format.TABLE) -> None:
    r"""Remove one from its blanket, which keeps only so many.

    Example: supercloud incident evidence rm 7c9e6679-7425-40de-944b-e07fc1f90ae7 \
        16fd2706-8baf-433b-82eb-8c7fada847da

    Args:
        incident: Its id.
        evidence: Its id, as ls shows it.
    """
    connect().delete(_path(incident, evidence))
    said(f"evidence {evidence} removed", output, removed=evidence)


# ---------------------------------------------------------------- inside


def _found(client: Client, incident: str, evidence: str) -> dict[str, Any]:
    """Raises: NotFound."""
    for one in client.get(f"/incidents/{incident}/evidence"):
        if one["id"] == evidence:
            return dict(one)
    raise NotFound(
        f"incident {incident} has no evidence {evidence}", hint=f"supercloud incident evidence ls {incident}"
    )


def _watched(memory: Iterator[tuple[int, bytes]], size: int, bar: Bar) -> Iterator[tuple[int, bytes]]:
    seen = 0
    for address, data in memory:
        yield address, data
        seen += len(data)
        bar("scanning", min(1.0, seen / max(1, size)))


def _path(incident: str, evidence: str) -> str:
    return f"/incidents/{incident}/evidence/{evidence}"


def _fetch(client: Client, found: dict[str, Any], file: Path, bar: Bar) -> None:
    """
    Raises:
        Unavailable: it broke off again and again; what is here is kept for the next time.
    """
    from supercloud.cli.terminal import take

    part, size = file.with_name(f"{file.name}.part"), int(found["size_bytes"])
    if part.exists() and not _begins(part, found["id"]):
        part.unlink()
    with _opened(part, os.O_APPEND) as into:

        def write(data: bytes) -> None:
            into.write(data)
            bar("fetching", min(1.0, into.tell() / size))

        for _ in range(_TRIES):
            if into.tell() >= size:
                break
            take(client, f"{_path(found['incident'], found['id'])}/content", write, offset=into.tell())
        here = into.tell()
        into.flush()
        os.fsync(into.fileno())
    if here < size:
        raise Unavailable(f"{here} of {size} bytes are here, in {part}", hint="fetch it again")
    if here > size:
        part.unlink()
        raise InvalidInput(f"more came than the {size} bytes that it has", hint="fetch it again")
    part.rename(file)


def _begins(part: Path, evidence: str) -> bool:
    """Whether it is the beginning of that one."""
    from supercloud.trust.evidence import header_of

    try:
        with part.open("rb") as file:
            return header_of(file).evidence == evidence
    except InvalidInput:
        return False


@contextmanager
def _read(file: Path) -> Iterator[IO[bytes]]:
    """Raises: NotFound."""
    try:
        with file.open("rb") as opened:
            yield opened
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}") from error


@contextmanager
def _fresh(file: Path) -> Iterator[IO[bytes]]:
    """A file that has its name once it is whole, and is gone if it does not come to that."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        with _opened(part, os.O_EXCL) as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)


def _opened(file: Path, flags: int) -> IO[bytes]:
    """For nobody but us."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600), "ab")


async def _key(header: Header) -> EvidenceKey:
    """Of the owner's key store, on this machine: the control plane is not asked, and could not say."""
    from supercloud.keystore.client import RemoteOwner

    owner = RemoteOwner(Place.default().keystore_socket)
    try:
        return await owner.evidence_key(
            cloud=header.cloud, blanket=header.blanket, evidence=header.evidence, sealed=header.key
        )
    finally:
        await owner.close()
