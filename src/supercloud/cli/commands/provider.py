"""`supercloud provider`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Name, Output, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.model.errors import InvalidInput

app = App(name="provider", help="Domains with their platforms.")
_COLUMNS = ("name", "kind", "accelerator", "nesting", "confidentiality", "blankets")


@app.command
def add(
    name: Name,
    /,
    *,
    kind: str = "qemu",
    option: Annotated[list[str] | None, Parameter(help="KEY=VALUE for the platform's driver")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Add a domain with its platform.

    Example: supercloud provider add north --kind qemu

    Args:
        name: What to call it.
        kind: Of its platform: qemu, or simulated for trying things out.
    """
    options = dict(_pair(text) for text in option or [])
    provider = connect().post("/providers", {"name": name, "kind": kind, "options": options})
    if output is Format.JSON:
        print_thing(provider, output)
    said(f"provider {name}: {provider['accelerator']} ({provider['reason']})", output)


def _pair(text: str) -> tuple[str, str]:
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


@app.command
def rm(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Remove one that has no blankets.

    Example: supercloud provider rm north
    """
    connect().delete(f"/providers/{name}")
    said(f"provider {name} removed", output, removed=name)
