"""`supercloud tpm`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Output, said
from supercloud.client import Place
from supercloud.keystore.acts import OwnersTpms

app = App(
    name="tpm",
    help="TPMs of providers' machines whose word on what was booted there you take, by your key store.",
)
_COLUMNS = ("tpm", "booted")


def _check(_: Any, value: Any) -> None:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise ValueError(f"{value!r} is no digest: sha256:DIGEST, as `act grant` says it")


_Digest = Annotated[str, Parameter(validator=_check, metavar="SHA256:DIGEST")]


@app.command
def trust(tpm: _Digest, /, *, booted: _Digest, output: Output = Format.TABLE) -> None:
    """Take a TPM's word for its machine, as long as that has booted this. A machine's quote shows both:
    `act grant` says them. That the TPM is a real one, and that what was booted is sound, is for you to know
    from elsewhere: its provider's word for it would be its provider's.

    Example: supercloud tpm trust sha256:0d0f0e8ec2bb6d70ba1b0a49c0a35f3a0a4a44fdfbf2a9a7a4ad4b9b9d7a9f51 \\
    --booted sha256:7b1e0b2c6f0c6e9d1f5d7b6f2f0c35fbd9f3a2e4c1d0b9a8f7e6d5c4b3a29181

    Args:
        tpm: The SHA-256 of its quoting key's public area.
        booted: The SHA-256 of its PCRs 0 to 9, which firmware and loader have written.
    """
    _owner().trust(tpm, booted)
    _told({"tpm": tpm, "booted": booted}, output)
    said(f"TPM {tpm} is believed, while its machine has booted {booted}", output)


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List those that you trust.

    Example: supercloud tpm ls
    """
    found = [{"tpm": one.tpm, "booted": one.booted} for one in _owner().every()]
    print_rows(found, _COLUMNS, output)


@app.command
def forget(tpm: _Digest, /, *, output: Output = Format.TABLE) -> None:
    """Take a TPM's word no more. What was consented to by it stays so.

    Example: supercloud tpm forget sha256:0d0f0e8ec2bb6d70ba1b0a49c0a35f3a0a4a44fdfbf2a9a7a4ad4b9b9d7a9f51

    Args:
        tpm: As `ls` shows it.
    """
    _owner().forget(tpm)
    _told({"tpm": tpm}, output)
    said(f"TPM {tpm} is believed no more", output)


def _told(of: dict[str, str], output: Format) -> None:
    if output is Format.JSON:
        print_thing(of, output)


def _owner() -> OwnersTpms:
    return OwnersTpms(Place.default().keystore_socket)
