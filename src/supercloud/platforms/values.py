"""Checks of what enters any platform driver: names become directories and arguments there."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Id, Name
from supercloud.ports.platform import BlanketMachine

_ID: TypeAdapter[str] = TypeAdapter(Id)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SPEC: TypeAdapter[BlanketMachine] = TypeAdapter(BlanketMachine)


def checked_id(machine: str) -> str:
    """`machine` if it is an identifier: it becomes a directory's name. Raises InvalidInput."""
    return _checked(_ID, machine, "machine id")


def checked_label(label: str) -> str:
    """`label` if it is a name: QEMU keeps it in the disk. Raises InvalidInput."""
    return _checked(_NAME, label, "snapshot label")


def checked_spec(spec: BlanketMachine) -> BlanketMachine:
    """`spec` if every field is what its type says: they become QEMU's arguments. Raises InvalidInput."""
    try:
        # A dataclass instance would be taken at its word; its fields are validated one by one.
        return _SPEC.validate_python({name: getattr(spec, name) for name in spec.__slots__})
    except ValidationError as error:
        raise InvalidInput(f"machine: {first_problem(error)}") from error


def _checked(adapter: TypeAdapter[str], value: str, what: str) -> str:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidInput(f"{what}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """One line about the first of what pydantic found."""
    detail = error.errors()[0]
    where = ".".join(map(str, detail["loc"]))
    return f"{where}: {detail['msg']}" if where else detail["msg"]
