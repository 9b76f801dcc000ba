"""One look at a guest: all that is looked for. What seems wrong is looked at again before it counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from supercloud.model.errors import Unavailable
from supercloud.security.introspection import modules, tasks, text
from supercloud.security.introspection.kernel import TICKS_S, Kernel, Written, find_kernel
from supercloud.security.introspection.memory import Physical
from supercloud.security.introspection.sockets import Socket, sockets

#: A guest goes on while it is looked at, and what it is in the middle of looks wrong. What is still so after
#: each of so many looks more, each so much later than the one before (seconds), is not in the middle of it.
AGAIN_S: tuple[float, ...] = (0.05, 0.25, 1.0)
_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of a kernel's code or tables: its address, and what that is in by the kernel's own symbols."""

    address: int
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HookedCall:
    number: int
    leads: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenProcess:
    pid: int
    name: str
    parent: int
    missing: str
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """By one look. `first`: the first at this boot of the guest, with whose kernel's code later ones compare.
    `ms`: how long it took, without what is looked at again. `sockets`: None where they cannot be read."""

    release: str
    first: bool
    ms: float
    processes: tuple[tasks.Task, ...]
    sockets: tuple[Socket, ...] | None
    modules: tuple[str, ...]
    pages: int  # of the kernel's code
    hidden: tuple[HiddenProcess, ...] = ()
    hidden_modules: tuple[str, ...] = ()
    hooked: tuple[HookedCall, ...] = ()
    changed: tuple[Place, ...] = ()

    @property
    def clean(self) -> bool:
        return not (self.hidden or self.hidden_modules or self.hooked or self.changed)


class Looker:
    """At one guest, from its boot to its end. What a kernel's code is at the first look is what it has to be
    at every other."""

    def __init__(
        self, physical: Physical, written: Written, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._physical = physical
        self._written = written
        self._sleep = sleep
        self._kernel: Kernel | None = None
        self._ticks = 0
        self._parts: tuple[tasks.Tasks, text.Text] | None = None

    def look(self) -> Seen:
        """
        Raises:
            Unavailable: it cannot be looked at, and why.
        """
        kernel = self._found()
        first = self._parts is None
        if self._parts is None:
            self._parts = tasks.Tasks(kernel), text.Text(kernel)
        return self._look(kernel, *self._parts, first=first)

    def _found(self) -> Kernel:
        """A guest that boots anew leaves its last kernel where it was: a picture in which nothing moves."""
        kernel = self._kernel
        if kernel is not None and self._goes_on(kernel):
            return kernel
        found = find_kernel(self._physical, self._written, self._sleep)
        if kernel is None or found.said != kernel.said:
            self._kernel, self._parts, kernel = found, None, found
        kernel.memory.begin()
        self._ticks = kernel.ticks()
        return kernel

    def _goes_on(self, kernel: Kernel) -> bool:
        kernel.memory.begin()
        try:
            before, self._ticks = self._ticks, kernel.ticks()
            return before != self._ticks and kernel.is_there()
        except Unavailable:
            return False

    def _check_alive(self, kernel: Kernel) -> None:
        """What was found counts only of a kernel that goes on: in what one that has ended leaves behind, all
        looks wrong as soon as something is written over it.

        Raises:
            Unavailable: it does not go on.
        """
        for _ in range(_TRIES):
            if self._goes_on(kernel):
                return
            self._sleep(TICKS_S / _TRIES)
        raise Unavailable("the guest stands still, or boots anew")

    def _look(self, kernel: Kernel, processes: tasks.Tasks, code: text.Text, *, first: bool) -> Seen:
        began = time.perf_counter()
        listed, suspects = tasks.disagreements(processes)
        open_sockets = sockets(kernel)
        loaded, hidden_modules = modules.listed(kernel), modules.hidden(kernel)
        hooked, changed = frozenset(text.hooks(kernel)), frozenset(code.changed())
        ms = (time.perf_counter() - began) * 1000
        for wait_s in AGAIN_S:
            if not (suspects or hidden_modules or hooked or changed):
                break
            self._sleep(wait_s)
            kernel.memory.begin()
            suspects = _again(processes, suspects) if suspects else suspects
            hidden_modules &= modules.hidden(kernel) if hidden_modules else hidden_modules
            hooked &= frozenset(text.hooks(kernel)) if hooked else hooked
            changed &= frozenset(code.changed()) if changed else changed
        if suspects or hidden_modules or hooked or changed:
            self._check_alive(kernel)
        named = kernel.symbols.names({one.target for one in hooked} | changed) if hooked or changed else {}
        return Seen(
            release=kernel.release,
            first=first,
            ms=round(ms, 3),
            processes=listed,
            sockets=None if open_sockets is None else tuple(sorted(open_sockets)),
            modules=tuple(sorted(one.name for one in loaded)),
            pages=code.pages,
            hidden=tuple(
                HiddenProcess(
                    pid=one.task.pid,
                    name=one.task.name,
                    parent=one.task.parent,
                    missing=one.missing,
                    seen=one.seen,
                )
                for one in sorted(suspects, key=lambda one: (one.task.pid, one.seen))
            ),
            hidden_modules=tuple(sorted(one.name for one in hidden_modules)),
            hooked=tuple(
                HookedCall(number=one.number, leads=_place(named, one.target))
                for one in sorted(hooked, key=lambda one: one.number)
            ),
            changed=tuple(_place(named, one) for one in sorted(changed)),
        )


def _again(processes: tasks.Tasks, suspects: frozenset[tasks.Hidden]) -> frozenset[tasks.Hidden]:
    """Those that are still so. A queue has a process only while that runs: what was seen in one has to be
    there, and still in none of the others."""
    listed, now = tasks.disagreements(processes)
    known = {one.address for one in listed} | processes.by_pid()
    return frozenset(
        one
        for one in suspects
        if one in now
        or (one.seen == tasks.QUEUES and one.task.address not in known and tasks.still(processes, one))
    )


def _place(named: dict[int, str], address: int) -> Place:
    return Place(address=address, symbol=named.get(address, "?"))
