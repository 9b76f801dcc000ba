"""`supercloud tpm`."""

from __future__ import annotations

from cyclopts import App

from supercloud.cli.output import Format, print_rows
from supercloud.cli.session import Output, said
from supercloud.client import Place
from supercloud.keystore.acts import OwnersTpms

app = App(
    name="tpm",
    help="TPMs of providers' machines whose word on what was booted there you take, by your key store.",
)
_COLUMNS = ("tpm", "booted")


@app.command
def trust(tpm: str, /, *, booted: str, output: Output = Format.TABLE) -> None:
    """Take a TPM's word for its machine, as long as that has booted this. A machine's quote shows both:
    `act grant` says them. That the TPM is a real one, and that what was booted is sound, is for you to know
    from elsewhere: its provider's word for it would be its provider's.

    Example: supercloud tpm trust sha256:5f0c… --booted sha256:9a41…

    Args:
        tpm: The SHA-256 of its quoting key's public area.
        booted: The SHA-256 of its PCRs 0 to 9, which firmware and loader have written.
    """
    _owner().trust(tpm, booted)
    said(f"TPM {tpm} is believed, while its machine has booted {booted}", output)


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List those that you trust.

    Example: supercloud tpm ls
    """
    found = [{"tpm": one.tpm, "booted": one.booted} for one in _owner().every()]
    print_rows(found, _COLUMNS, output)


@app.command
def forget(tpm: str, /, *, output: Output = Format.TABLE) -> None:
    """Take a TPM's word no more. What was consented to by it stays so.

    Example: supercloud tpm forget sha256:5f0c…

    Args:
        tpm: As `ls` shows it.
    """
    _owner().forget(tpm)
    said(f"TPM {tpm} is believed no more", output)


def _owner() -> OwnersTpms:
    return OwnersTpms(Place.default().keystore_socket)
