"""Modules of a guest's kernel: by its own list, and by what it shows of them in /sys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from supercloud.model.errors import Unavailable
from supercloud.security.introspection.kernel import Kernel
from supercloud.security.introspection.memory import number, text

_MOST: Final = 2048
_LIVE: Final = 0  # MODULE_STATE_LIVE


@dataclass(frozen=True, slots=True, order=True)
class Module:
    name: str
    address: int


def listed(kernel: Kernel) -> frozenset[Module]:
    """
    Raises:
        Unavailable: the list cannot be followed.
    """
    inside = kernel.types.offset("module.list")
    fields = kernel.fields("module", state="I", list__next="Q", name="56s")
    head = kernel.symbols["modules"]
    at, found, many = kernel.memory.u64(head), set(), 0
    while at != head:
        many += 1
        if many > _MOST:
            raise Unavailable("the guest's list of modules does not end")
        values = fields.read(kernel.memory, at - inside)
        found.add(Module(text(values["name"]), at - inside))
        at = number(values["list__next"])
    return frozenset(found)


def shown(kernel: Kernel) -> frozenset[Module]:
    """What is below /sys/module and is loaded.

    Raises:
        Unavailable: the list cannot be followed.
    """
    entry = kernel.types.offset("module_kobject.kobj.entry")
    of = kernel.types.offset("module_kobject.mod")
    name = kernel.fields("module", state="I", name="56s")
    head = kernel.memory.u64(kernel.symbols["module_kset"]) + kernel.types.offset("kset.list")
    at, found, many = kernel.memory.u64(head), set(), 0
    while at != head:
        many += 1
        if many > _MOST:
            raise Unavailable("the guest's list of modules does not end")
        if module := kernel.memory.u64(at - entry + of):  # built-in ones have none
            values = name.read(kernel.memory, module)
            if number(values["state"]) == _LIVE:
                found.add(Module(text(values["name"]), module))
        at = kernel.memory.u64(at)
    return frozenset(found)


def hidden(kernel: Kernel) -> frozenset[Module]:
    """Loaded and shown, and not in the list: at this moment.

    Raises:
        Unavailable: one of both cannot be followed.
    """
    return shown(kernel) - listed(kernel)
