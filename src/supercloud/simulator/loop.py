"""An event loop that owns time, and runs the programs of many machines in an order that a seed decides.

Every callback belongs to the process in whose context it was made. A killed process's callbacks never run; a
hung one's wait; a stopped machine's clock stands still, and its timers with it.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from itertools import count
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


class Machine:
    """Something with a clock of its own, which stands still while it is stopped from outside."""

    def __init__(self, loop: SimLoop, name: str) -> None:
        self._loop = loop
        self.name = name
        self.stopped = False
        self._lost_s = 0.0  # how long it stood still so far
        self._stopped_at = 0.0

    def now(self) -> float:
        """Its monotonic clock, seconds."""
        moment = self._stopped_at if self.stopped else self._loop.true_s
        return moment - self._lost_s

    def true(self, when: float) -> float:
        """The true moment of a moment on its clock, if it is not stopped before."""
        return when + self._lost_s

    def stop(self) -> None:
        if not self.stopped:
            self.stopped, self._stopped_at = True, self._loop.true_s

    def go_on(self) -> None:
        if self.stopped:
            lost = self._loop.true_s - self._stopped_at
            self.stopped = False
            self._lost_s += lost
            self._loop.shift(self, lost)


class Process:
    """What can be killed (and then is gone for good) or hung, as by SIGKILL, SIGSTOP and SIGCONT."""

    def __init__(self, loop: SimLoop, machine: Machine, name: str) -> None:
        self._loop = loop
        self.machine = machine
        self.name = name
        self.dead = False
        self.hung = False
        self.ready: deque[asyncio.Handle] = deque()
        self.on_end: list[Callable[[], None]] = []  # what its kernel does: closing its connections
        self._context = copy_context()
        self._context.run(_CURRENT.set, self)

    @property
    def runs(self) -> bool:
        return not (self.dead or self.hung or self.machine.stopped)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work, context=self._context.copy())
        task.add_done_callback(self._ended, context=self._context)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """An exception that nobody expected is a bug in the program that it ended."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.on_crash(self.name, error)

    def call(self, act: Callable[..., object], *args: object) -> None:
        """Have the process run `act`, when it runs at all."""
        self._loop.call_soon(act, *args, context=self._context)

    def kill(self) -> None:
        """At once: no `finally` runs, nothing is said."""
        self.dead = True
        self.ready.clear()
        for act in self.on_end:
            act()


_CURRENT: ContextVar[Process] = ContextVar("process")


def current() -> Process:
    return _CURRENT.get()


class SimLoop(asyncio.BaseEventLoop):
    """One callback at a time. Among the processes that have something to do, the seed picks."""

    def __init__(self, random: Random, *, disk_s: float = 0.004) -> None:
        super().__init__()
        self.true_s = 0.0
        self.turns = 0
        self._random = random
        self._disk_s = disk_s
        self._timers: list[tuple[float, int, Process, asyncio.TimerHandle]] = []
        self._order = count()
        self._busy: list[Process] = []  # with callbacks ready, each once
        outside = Machine(self, "outside")
        self.on_crash: Callable[[str, BaseException], None] = lambda _name, _error: None
        #: The scheduler's own: the network, L0s, the user.
        self.outside = Process(self, outside, "outside")
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._remembering)

    def _remembering(self, loop: Any, work: Any, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        self.tasks.append(task)
        if len(self.tasks) > 4000:
            self.tasks = [one for one in self.tasks if not one.done()]
        return task

    # ------------------------------------------------------------ asyncio's side

    def time(self) -> float:
        return _CURRENT.get(self.outside).machine.now()

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._push(_owner(context, self.outside), handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        process = _owner(context, self.outside)
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (process.machine.true(when), next(self._order), process, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        machine = _owner(context, self.outside).machine
        return self.call_at(machine.now() + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Blocking work is done in one instant, somewhere in the time that it takes: a kill comes before or
        after it, and nothing else tells the two apart."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it is the waiter's
                self.call_later(self._took(), _settle, future, None, error)
            else:
                self.call_later(self._took(), _settle, future, result, None)

        self.call_later(self._took(), work)
        return future

    def _took(self) -> float:
        return self._random.random() * self._disk_s / 2

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return

    def _process_events(self, event_list: Any) -> None:
        return

    # ------------------------------------------------------------ whose turn it is

    def _push(self, process: Process, handle: asyncio.Handle) -> None:
        if process.dead:
            return
        if not process.ready and process not in self._busy:
            self._busy.append(process)
        process.ready.append(handle)

    def _run_once(self) -> None:
        able = [process for process in self._busy if process.runs]
        if not able:
            self._advance()
            return
        process = able[0] if len(able) == 1 else self._random.choice(able)
        handle = process.ready.popleft()
        if not process.ready:
            self._busy.remove(process)
        if not handle._cancelled:
            self.turns += 1
            handle._run()

    def _advance(self) -> None:
        """To the next timer of anybody who can hear it; a hung process finds it when it goes on."""
        while self._timers:
            due, order, process, timer = heapq.heappop(self._timers)
            if process.dead or timer._cancelled:
                continue
            if process.machine.stopped:
                self._standing.append((due, order, process, timer))
                continue
            self.true_s = max(self.true_s, due)
            while process.machine.now() < timer.when():
                # What waits for a moment by its own clock would find it not come yet, for ever.
                self.true_s = math.nextafter(self.true_s, math.inf)
            self._push(process, timer)
            return
        raise RuntimeError("nothing will ever happen again")

    @property
    def _standing(self) -> list[tuple[float, int, Process, asyncio.TimerHandle]]:
        """Timers of stopped machines."""
        found: list[tuple[float, int, Process, asyncio.TimerHandle]] = self.__dict__.setdefault("_stood", [])
        return found

    def shift(self, machine: Machine, seconds: float) -> None:
        """A machine goes on after it stood still for `seconds`."""
        everything = self._timers + self._standing
        self._standing.clear()
        self._timers = [
            (due + seconds if process.machine is machine else due, order, process, timer)
            for due, order, process, timer in everything
        ]
        heapq.heapify(self._timers)

    # ------------------------------------------------------------ the end of the world

    def bury(self) -> None:
        """Let every task that is left end, so that nothing is reported of it."""
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._busy.clear()
        self._timers.clear()


def _owner(context: Context | None, otherwise: Process) -> Process:
    if context is None:
        return _CURRENT.get(otherwise)
    return context.get(_CURRENT, otherwise)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
