"""`supercloud act`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Cloud, Name, Output, connect, said
from supercloud.client import Place
from supercloud.keystore.acts import OwnersActs, consent_request
from supercloud.keystore.faces import Consent
from supercloud.model.acts import ActState
from supercloud.model.errors import Conflict, Refused
from supercloud.trust.files import write_private

app = App(
    name="act", help="Privileged acts that providers ask for: grant or refuse them, open what they gave."
)
_COLUMNS = ("id", "state", "enforced", "operation", "domain", "blanket", "expires_at", "purpose")
_PAGE = 4096


@app.command
def ls(
    *,
    cloud: Cloud = None,
    state: Annotated[ActState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List what providers ask to do to your machines and what is in them; the newest first.

    Who says nothing has granted nothing: an act expires.

    Example: supercloud act ls --state asked
    """
    rows = connect().all("/acts", cloud=cloud, state=state)
    if output is Format.TABLE:
        rows = [{**row, **row["statement"]} for row in rows]
    print_rows(rows, _COLUMNS, output)


@app.command
def show(act: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one, with the statement that is agreed to, and whether anything below its provider enforces that.

    Example: supercloud act show 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        act: Its id.
    """
    found = connect().get(f"/acts/{act}")
    if output is Format.TABLE:
        found |= found.pop("statement")
    print_thing(found, output)


@app.command
def grant(
    act: Name,
    /,
    *,
    attested: Annotated[bool, Parameter(help="only if a TPM that you trust vouches for the machine")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Grant one, once. Where the platform enforces it, your key store signs for exactly this act, machine,
    launch and time, and what leaves the machine is sealed to it; elsewhere you only give your word.

    Example: supercloud act grant 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        act: Its id.
    """
    client = connect()
    asked = client.get(f"/acts/{act}")
    if not asked["enforced"]:
        if attested:
            raise Refused(_PROCEDURAL)
        granted = client.post(f"/acts/{act}/grant", {})
        _told(granted, output)
        said(f"act {act} is {granted['state']}: {_PROCEDURAL}", output)
        return
    nonce = secrets.token_hex(32)
    challenge = client.post(f"/acts/{act}/challenge", {"nonce": nonce})
    signed = _owner().consent(consent_request(asked, challenge, nonce, only_vouched=attested))
    granted = client.post(f"/acts/{act}/grant", {"consent": signed.consent})
    of_machine = {
        "machine_key": signed.machine,
        "digest": signed.digest,
        "vouched": signed.vouched,
        "tpm": signed.tpm,
        "booted": signed.booted,
    }
    _told({**granted, **of_machine}, output)
    said(f"act {act} is {granted['state']}, once, for launch {challenge['launch']} of the machine", output)
    said(_standing(signed), output)


@app.command(name="open")
def open_(
    act: Name,
    /,
    *,
    to: Annotated[Path, Parameter(help="a new file, which only you can read")],
    output: Output = Format.TABLE,
) -> None:
    """Open what an act that you granted gave: pages of the machine's memory, with your key store's key.

    Example: supercloud act open 7c9e6679-7425-40de-944b-e07fc1f90ae7 --to pages.bin

    Args:
        act: Its id.
    """
    clear = _owner().open(connect().get(f"/acts/{act}/export"))
    try:
        write_private(to, clear, replace=False)
    except FileExistsError as error:
        raise Conflict(f"{to} exists already") from error
    _told({"act": act, "pages": len(clear) // _PAGE, "file": str(to)}, output)
    said(f"{len(clear) // _PAGE} pages of 4 KiB are in {to}", output)


@app.command
def refuse(act: Name, /, *, output: Output = Format.TABLE) -> None:
    """Refuse one, or take back that you granted it. Its provider is told.

    Example: supercloud act refuse 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        act: Its id.
    """
    ended = connect().post(f"/acts/{act}/refuse")
    _told(ended, output)
    said(f"act {act} is {ended['state']}", output)


# ---------------------------------------------------------------- inside

_PROCEDURAL = (
    "procedural only, since nothing below its provider enforces it: whoever administers that platform reads "
    "the machine without asking"
)


def _standing(signed: Consent) -> str:
    """Who vouches for the key by which the machine's monitor signs."""
    if signed.vouched:
        return f"attested: TPM {signed.tpm} vouches for the machine's key, and for what was booted there"
    if signed.tpm is None:
        return f"unattested: nobody but its provider vouches for the machine's key {signed.machine}"
    return (
        f"unattested: TPM {signed.tpm} vouches for the machine's key, and you do not trust that one. If you "
        f"know that it is the machine's: supercloud tpm trust {signed.tpm} --booted {signed.booted}"
    )


def _owner() -> OwnersActs:
    return OwnersActs(Place.default().keystore_socket)


def _told(found: Mapping[str, Any], output: Format) -> None:
    if output is Format.JSON:
        print_thing(dict(found), output)
