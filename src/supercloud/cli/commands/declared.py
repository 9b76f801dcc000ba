"""`supercloud apply`, `diff`, `export`, `schema`."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from supercloud.cli.declared import show, write
from supercloud.cli.declared.models import json_schema
from supercloud.cli.declared.plan import plan
from supercloud.cli.declared.read import Document, Wrong, load
from supercloud.cli.declared.run import Result, Run
from supercloud.cli.declared.steps import Act, Key, Plan
from supercloud.cli.declared.there import look
from supercloud.cli.output import Format, board, print_json
from supercloud.cli.session import Name, Output, connect, said
from supercloud.client import Place
from supercloud.model.errors import Conflict, NotFound, Refused, SupercloudError, Unavailable

#: Of `diff`, where there are differences: beyond the errors' own (see model.errors).
DIFFERS = 8
#: How often a plan is made anew, since something was under way when it was made.
_ROUNDS = 8

File = Annotated[
    Path,
    Parameter(name=["--file", "-f"], allow_leading_hyphen=True, help="the cloud's file; - is standard input"),
]
Prune = Annotated[
    bool, Parameter(help="take away what is in the cloud and not in the file: instances, volumes, all")
]


class WrittenAs(StrEnum):
    """`-o` of `export`."""

    YAML = "yaml"
    JSON = "json"


def apply(
    *,
    file: File,
    prune: Prune = False,
    yes: Annotated[
        bool, Parameter(name=["--yes", "-y"], help="take away, and lower levels, without asking")
    ] = False,
    at_once: Annotated[int, Parameter(validator=Number(gte=1, lte=64))] = 8,
    output: Output = Format.TABLE,
) -> None:
    """Make a cloud what its file declares: show the steps, then carry them out, several at once.

    Applied again, it does nothing. Interrupted or failed, it says what was done; apply again to go on.
    Nothing begins if something cannot be changed. Nothing is taken away without --prune.

    Example: supercloud apply -f cloud.yaml

    Args:
        at_once: How many steps may be under way at the same time.
    """
    document = _load(file)
    made: list[dict[str, Any]] = []
    for _ in range(_ROUNDS):
        found = _plan(document, prune=prune)
        if output is Format.TABLE:
            show.print_plan(found, document)
        if found.refusals:
            _refuse(found, document, output)
        if found.lowered or (prune and found.taken_away):
            _confirm(found, yes=yes)
        results = _carry_out(found, document, output, at_once) if found.steps else {}
        made += show.plan_json(found, document, results)["steps"]
        if not any(step.act is Act.WAIT for step in found.steps):
            break
    else:
        raise Unavailable(f"something is always under way in cloud {found.cloud}", hint="apply again")
    if output is Format.JSON:
        print_json({**show.plan_json(found, document), "differs": False, "steps": made})
    said(f"cloud {found.cloud} is as {document.title} says" + ("" if made else " already"), output)


def diff(*, file: File, prune: Prune = False, output: Output = Format.TABLE) -> int:
    """Show what apply would do, and do nothing.

    Exit status 0 if there is no difference, 8 if there are some, another one after an error.

    Example: supercloud diff -f cloud.yaml
    """
    document = _load(file)
    found = _plan(document, prune=prune)
    if output is Format.JSON:
        print_json(show.plan_json(found, document))
    else:
        show.print_plan(found, document)
    if found.differs:
        return DIFFERS
    said(f"cloud {found.cloud} is as {document.title} says", output)
    return 0


def export(
    name: Name,
    /,
    *,
    file: Annotated[Path | None, Parameter(name=["--file", "-f"])] = None,
    output: Annotated[
        WrittenAs, Parameter(name=["--output", "-o"], help="yaml, or json, which apply reads as well")
    ] = WrittenAs.YAML,
) -> None:
    """Write the file that declares a cloud as it is. Applied where there is nothing, it makes the like.

    User data, which may be secret, is not in it; it says which instances have some.

    Example: supercloud export mine -f cloud.yaml

    Args:
        name: The cloud.
        file: Where to write it, instead of standard output; it must not exist.
    """
    there = look(connect(), name)
    if there.wanted is None:
        raise NotFound(f"there is no cloud {name}", hint="supercloud cloud ls shows which there are")
    content, lacks = write.document(there.wanted, there.providers, there.trust), write.lacks(there.wanted)
    if file is None:
        _write(sys.stdout, content, output, lacks)
        _warn(lacks)
        return
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{file} exists", hint="name another file") from error
    with os.fdopen(opened, "w", encoding="utf-8") as stream:
        _write(stream, content, output, lacks)
    _warn(lacks)


def schema(what: Literal["cloud", "policy"] = "cloud", /) -> None:
    """Print the JSON Schema of a cloud's file, or of a policy, for editors to complete and to check it by.

    Example: supercloud schema cloud > cloud.schema.json

    Args:
        what: Of which file.
    """
    if what == "policy":
        from supercloud.security import policy

        print_json(policy.json_schema())
        return
    print_json(json_schema())


# ---------------------------------------------------------------- what they share


def _load(file: Path) -> Document:
    try:
        return load(file)
    except Wrong as error:
        sys.stderr.write("".join(f"{line}\n" for line in error.lines))
        raise


def _plan(document: Document, *, prune: bool) -> Plan:
    return plan(document.declared, look(connect(), document.declared.wanted.cloud.name), prune=prune)


def _refuse(found: Plan, document: Document, output: Format) -> None:
    if output is Format.JSON:
        print_json(show.plan_json(found, document))
    first = found.refusals[0]
    count = len(found.refusals)
    more = f" (and {count - 1} more)" if count > 1 else ""
    raise Refused(
        f"{document.where(first.path)}: {first.kind} {first.name}: {first.why}{more}; nothing was done",
        hint=first.hint,
    )


def _confirm(found: Plan, *, yes: bool) -> None:
    """
    Raises:
        Refused: nobody said yes.
    """
    if yes:
        return
    names = ", ".join(f"{step.kind} {step.name}" for step in found.taken_away if step.act is Act.REMOVE)
    names = names or "what is marked -"
    said = [f"takes away {names}"] if found.taken_away else []
    levels = ", ".join(f"{step.kind} {step.name}" for step in found.lowered)
    said += [f"lowers the security level of {levels}"] if levels else []
    what = " and ".join(said)
    if sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write(f"This {what}. Type the cloud's name to go on: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() == found.cloud:
            return
    raise Refused(f"this {what}, and nobody said yes", hint="--yes says so")


def _carry_out(found: Plan, document: Document, output: Format, at_once: int) -> dict[Key, Result]:
    """
    Raises:
        SupercloudError: what a step failed with, after all were settled.
    """
    with board(quiet=output is Format.JSON) as shown:
        run = Run(found, connect, _seal, shown, at_once=at_once)
        try:
            run.all()
            error = next((one.error for one in run.results.values() if one.error), None)
        except KeyboardInterrupt:
            _tell(found, document, run, output)
            raise
    if error is not None:
        _tell(found, document, run, output)
        raise _and_again(error)
    return run.results


def _tell(found: Plan, document: Document, run: Run, output: Format) -> None:
    if output is Format.JSON:
        print_json(show.plan_json(found, document, run.results))
    else:
        show.print_results(found, run.results)
    sys.stdout.flush()


def _and_again(error: SupercloudError) -> SupercloudError:
    return type(error)(error.message, hint=f"{error.hint + '; ' if error.hint else ''}apply again to go on")


def _seal(user_data: str, instance: str) -> dict[str, Any]:
    """Its key stays with the owner's key store, as that of `vm run --user-data`."""
    from supercloud.keystore.userdata import seal_user_data

    return seal_user_data(Place.default().keystore_socket, user_data.encode(), instance=instance)


def _warn(lacks: str | None) -> None:
    if lacks:
        sys.stderr.write(f"{lacks}\n")


def _write(stream: Any, content: dict[str, Any], output: WrittenAs, remark: str | None) -> None:
    if output is WrittenAs.JSON:
        import json

        json.dump(content, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    else:
        stream.write(write.text(content, remark))
