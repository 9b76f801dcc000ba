"""Processes of a guest, by what its kernel keeps of them in several places which have to agree.

The list of tasks, the tree of pids (which /proc shows), and the run queues of the processors. A process that
was taken out of one of them, to be seen nowhere, is still in another: it has to run, and to be waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from supercloud.model.errors import Unavailable
from supercloud.security.introspection.kernel import Kernel
from supercloud.security.introspection.memory import Fields, number, text

#: Linux has at most 4,194,304 pids; no guest of ours has room for so many processes.
MOST_TASKS: Final = 32768
_MOST_CPUS, _MOST_RUNNING = 512, 4096
#: Of the tree of pids: XA_CHUNK_SIZE of Linux, 64 bits in parts of 6, and as many nodes as hold all.
_SLOTS, _DEEPEST, _MOST_NODES = 64, 11, 4096
_PID_MOST: Final = 1 << 22
_DEAD: Final = 0x80  # TASK_DEAD


@dataclass(frozen=True, slots=True, order=True)
class Task:
    """A process. `address` and `begun` (nanoseconds of the guest's clock) tell it from one that has its pid
    after it."""

    pid: int
    name: str
    parent: int
    begun: int
    address: int


class Tasks:
    """
    Raises, from everything:
        Unavailable: what is there does not add up.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory = kernel.memory
        begun = "start_boottime" if kernel.types.has("task_struct.start_boottime") else "real_start_time"
        state = "__state" if kernel.types.has("task_struct.__state") else "state"
        self._begun = begun
        self._task = Fields.of(
            [
                (name, kernel.types.offset(f"task_struct.{path}"), kind)
                for name, path, kind in (
                    ("next", "tasks.next", "Q"),
                    ("pid", "pid", "i"),
                    ("tgid", "tgid", "i"),
                    ("leader", "group_leader", "Q"),
                    ("parent", "real_parent", "Q"),
                    ("begun", begun, "Q"),
                    ("state", state, "I"),
                    ("ended", "exit_state", "i"),
                    ("name", "comm", "16s"),
                )
            ]
        )
        self._tgid = kernel.types.offset("task_struct.tgid")
        self._tasks = kernel.types.offset("task_struct.tasks")
        self._links = kernel.types.offset("task_struct.pid_links") + 16  # of PIDTYPE_TGID
        self._group = kernel.types.offset("task_struct.se.group_node")
        self._of_pid = kernel.types.offset("pid.tasks") + 8  # of PIDTYPE_TGID
        self._pids = kernel.types.offset("pid_namespace.idr.idr_rt.xa_head")
        self._slots = kernel.types.offset("xa_node.slots")

    def listed(self) -> dict[int, Task]:
        """By address: the list that begins at the first task, which is no process itself."""
        found: dict[int, Task] = {}
        first = self._kernel.symbols["init_task"]
        address = self._memory.u64(first + self._tasks) - self._tasks
        while address != first:
            if len(found) > MOST_TASKS or address in found:
                raise Unavailable("the guest's list of tasks does not end")
            task, fields = self._read(address)
            found[address] = task
            address = number(fields["next"]) - self._tasks
        return found

    def by_pid(self) -> set[int]:
        """Addresses of the processes that a pid leads to."""
        root = self._kernel.symbols["init_pid_ns"] + self._pids
        found: set[int] = set()
        for pid in self._leaves(self._memory.u64(root), _DEEPEST, set()):
            first = self._memory.u64(pid + self._of_pid)
            if first:
                found.add(first - self._links)
            if len(found) > MOST_TASKS:
                raise Unavailable("the guest has more pids than there can be")
        return found

    def _leaves(self, entry: int, deep: int, nodes: set[int]) -> Iterator[int]:
        if entry & 3 == 0:
            if entry:
                yield entry
            return
        if entry & 3 != 2 or entry < 4096:
            return  # nothing yet, or no node
        if deep == 0 or entry in nodes or len(nodes) > _MOST_NODES:
            raise Unavailable("the guest's tree of pids does not end")
        nodes.add(entry)
        for slot in memoryview(self._memory.read(entry - 2 + self._slots, 8 * _SLOTS)).cast("Q"):
            if slot:
                yield from self._leaves(slot, deep - 1, nodes)

    def running(self) -> set[int]:
        """Addresses of the processes of which a processor runs a thread, or is to run one next."""
        symbols, types = self._kernel.symbols, self._kernel.types
        many = self._memory.u32(symbols["nr_cpu_ids"])
        if not 0 < many <= _MOST_CPUS:
            raise Unavailable("the guest has more processors than there can be")
        found: set[int] = set()
        current, idle = types.offset("rq.curr"), types.offset("rq.idle")
        queue = types.offset("rq.cfs_tasks") if types.has("rq.cfs_tasks") else None
        for cpu in range(many):
            offset = self._memory.u64(symbols["__per_cpu_offset"] + 8 * cpu)
            rq = (symbols["runqueues"] + offset) & ((1 << 64) - 1)
            now = self._memory.u64(rq + current)
            if now != self._memory.u64(rq + idle):
                found.add(now)
            if queue is not None:
                found |= self._queued(rq + queue)
        return {leader for one in found if (leader := self._leader(one)) is not None}

    def _queued(self, head: int) -> set[int]:
        """A queue changes under our eyes: as far as it can be followed."""
        found: set[int] = set()
        try:
            at = self._memory.u64(head)
            while at != head and len(found) < _MOST_RUNNING and at - self._group not in found:
                found.add(at - self._group)
                at = self._memory.u64(at)
        except Unavailable:
            pass
        return found

    def _leader(self, thread: int) -> int | None:
        try:
            fields = self._task.read(self._memory, thread)
        except Unavailable:
            return None
        return number(fields["leader"]) if number(fields["pid"]) else None

    def at(self, address: int) -> Task | None:
        """Nothing, if there is none any more, or never was."""
        try:
            task, fields = self._read(address)
        except Unavailable:
            return None
        alive = number(fields["ended"]) == 0 and not number(fields["state"]) & _DEAD
        leads = number(fields["tgid"]) == task.pid and fields["leader"] == address
        return task if alive and leads and 0 < task.pid < _PID_MOST else None

    def _read(self, address: int) -> tuple[Task, dict[str, int | bytes]]:
        fields = self._task.read(self._memory, address)
        parent = self._memory.u32(number(fields["parent"]) + self._tgid)
        task = Task(
            pid=number(fields["pid"]),
            name=text(fields["name"]),
            parent=parent,
            begun=number(fields["begun"]),
            address=address,
        )
        return task, fields


@dataclass(frozen=True, slots=True)
class Hidden:
    """A process that is in `seen` and is not where it is `missing`."""

    task: Task
    missing: str
    seen: str


LIST, PIDS, QUEUES = "the list of tasks", "the tree of pids", "the run queues"


def disagreements(tasks: Tasks) -> tuple[tuple[Task, ...], frozenset[Hidden]]:
    """The processes, and those that are not everywhere where they have to be, at this moment. A process that
    begins or ends is so for a moment, too."""
    listed = tasks.listed()
    by_pid, running = tasks.by_pid(), tasks.running()
    found: set[Hidden] = set()
    for addresses, missing, seen in (
        (by_pid - listed.keys(), LIST, PIDS),
        (running - listed.keys() - by_pid, LIST, QUEUES),
        (listed.keys() - by_pid, PIDS, LIST),
    ):
        for address in addresses:
            task = tasks.at(address)
            if task is not None:
                found.add(Hidden(task, missing, seen))
    return tuple(sorted(listed.values())), frozenset(found)


def still(tasks: Tasks, suspect: Hidden) -> bool:
    """A queue has a process only while that runs, so what was in one is looked for by itself."""
    task = tasks.at(suspect.task.address)
    return task is not None and (task.pid, task.begun) == (suspect.task.pid, suspect.task.begun)
