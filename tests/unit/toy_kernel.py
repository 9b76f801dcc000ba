"""A kernel of a few kilobytes: as much of one as looks need, with tables, types and symbols of its own.

Everything is where a real one has it, in its formats; so what an attacker would do to a real one can be
done to it, and what no real one ever does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from supercloud.model.memory import Span
from supercloud.security.introspection.look import Looker
from supercloud.security.introspection.memory import Physical

BASE: Final = 0xFFFF_FFFF_8000_0000
SIZE: Final = 4 << 20
#: structure: its size, and each field's offset and the structure that it is, if it is one.
STRUCTS: Final[Mapping[str, tuple[int, Mapping[str, tuple[int, str | None]]]]] = {
    "list_head": (16, {"next": (0, None), "prev": (8, None)}),
    "sched_entity": (32, {"group_node": (8, "list_head")}),
    "task_struct": (
        320,
        {
            "__state": (0, None),
            "se": (8, "sched_entity"),
            "tasks": (40, "list_head"),
            "exit_state": (56, None),
            "pid": (60, None),
            "tgid": (64, None),
            "real_parent": (72, None),
            "group_leader": (80, None),
            "pid_links": (88, None),
            "start_boottime": (152, None),
            "comm": (160, None),
        },
    ),
    "pid": (64, {"tasks": (8, None)}),
    "xarray": (16, {"xa_head": (8, None)}),
    "idr": (24, {"idr_rt": (0, "xarray")}),
    "pid_namespace": (64, {"idr": (8, "idr")}),
    "xa_node": (528, {"slots": (16, None)}),
    "rq": (64, {"curr": (0, None), "idle": (8, None), "cfs_tasks": (16, "list_head")}),
    "module": (128, {"state": (0, None), "list": (8, "list_head"), "name": (24, None)}),
    "kobject": (32, {"entry": (8, "list_head")}),
    "module_kobject": (48, {"kobj": (0, "kobject"), "mod": (32, None)}),
    "kset": (32, {"list": (0, "list_head")}),
    "ftrace_page": (32, {"next": (0, None), "records": (8, None), "index": (16, None)}),
    "dyn_ftrace": (16, {}),
    "sock_common": (
        96,
        {
            "skc_daddr": (0, None),
            "skc_rcv_saddr": (4, None),
            "skc_dport": (12, None),
            "skc_num": (14, None),
            "skc_family": (16, None),
            "skc_state": (18, None),
            "skc_v6_daddr": (24, None),
            "skc_v6_rcv_saddr": (40, None),
            "skc_nulls_node": (64, None),
        },
    ),
    "inet_hashinfo": (
        48,
        {"ehash": (0, None), "ehash_mask": (16, None), "lhash2": (24, None), "lhash2_mask": (32, None)},
    ),
    "inet_listen_hashbucket": (16, {"nulls_head": (8, None)}),
    "udp_table": (24, {"hash": (0, None), "mask": (16, None)}),
    "udp_hslot": (16, {"head": (0, None)}),
}


def btf(structs: Mapping[str, tuple[int, Mapping[str, tuple[int, str | None]]]] = STRUCTS) -> bytes:
    """In BPF Type Format: type 1 is an integer, the structures follow in order. A name is there once."""
    known: dict[str, int] = {}
    names, types = bytearray(b"\0"), bytearray()
    numbers = {name: at for at, name in enumerate(structs, 2)}

    def named(name: str) -> int:
        if name not in known:
            known[name] = len(names)
            names.extend(name.encode() + b"\0")
        return known[name]

    types += struct.pack("<IIII", named("long"), 1 << 24, 8, 64)
    for name, (size, fields) in structs.items():
        types += struct.pack("<III", named(name), 4 << 24 | len(fields), size)
        for field, (offset, kind) in fields.items():
            types += struct.pack("<III", named(field), numbers[kind] if kind else 1, offset * 8)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names


class Toy:
    """`processes`: of each its pid and name."""

    def __init__(self, processes: Mapping[int, str]) -> None:
        self.data = bytearray(SIZE)
        self._next = 0x10_000
        self.symbols: dict[str, int] = {}
        self.tasks: dict[int, int] = {}  # by pid
        self._tables()
        self._code()
        self._processes(processes)
        self._modules(["virtio", "toy"])
        self._sockets()
        self._symbols_and_types()

    # ------------------------------------------------------------ what a test does with it

    def looker(self, *, sleep: object = None) -> Looker:
        """Whose clock goes on whenever it waits, and whenever it looks."""

        def read(offset: int, length: int) -> bytes:
            return bytes(self.data[offset : offset + length])

        def slept(seconds: float) -> None:
            self.tick()
            if callable(sleep):
                sleep(seconds)

        def written() -> Iterator[tuple[int, int]]:
            yield 0, SIZE

        return Looker(Physical([Span(address=0, offset=0, length=SIZE)], read), written, sleep=slept)

    def tick(self) -> None:
        self.put(self.symbols["jiffies_64"], self.u64(self.symbols["jiffies_64"]) + 1)

    def put(self, address: int, value: int, size: int = 8) -> None:
        at = address - BASE
        self.data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def u64(self, address: int) -> int:
        return int.from_bytes(self.data[address - BASE : address - BASE + 8], "little")

    def field(self, name: str, path: str) -> int:
        return STRUCTS[name][1][path][0]

    def unlink(self, node: int) -> None:
        """A node out of its list, which leads to itself then."""
        after, before = self.u64(node), self.u64(node + 8)
        for address, value in ((before, after), (after + 8, before), (node, node), (node + 8, node)):
            self.put(address, value)

    def hide(self, pid: int) -> None:
        self.unlink(self.tasks[pid] + self.field("task_struct", "tasks"))

    # ------------------------------------------------------------ making

    def _room(self, size: int) -> int:
        at = self._next
        self._next += (size + 63) // 64 * 64
        assert self._next < SIZE
        return BASE + at

    def _put_bytes(self, address: int, data: bytes) -> None:
        self.data[address - BASE : address - BASE + len(data)] = data

    def _tables(self) -> None:
        """One page of 1 GiB, where a kernel's image is: the machine's memory from its beginning."""
        self.symbols["swapper_pg_dir"] = BASE + 0x1000
        self.put(BASE + 0x1000 + 511 * 8, 0x2000 | 1)
        self.put(BASE + 0x2000 + 510 * 8, 0x80 | 1)

    def _code(self) -> None:
        start = BASE + 0x4000
        self.symbols |= {"_stext": start, "_etext": start + 0x3000}
        self._put_bytes(start, bytes(range(256)) * 48)
        calls = {
            f"__x64_sys_{name}": start + 0x100 * at for at, name in enumerate(("read", "write", "open"), 1)
        }
        self.symbols |= calls
        table = self._room(24)
        self.symbols |= {"sys_call_table": table, "ia32_sys_call_table": table + 24}
        for at, address in enumerate(calls.values()):
            self.put(table + 8 * at, address)
        jumps = self._room(32)
        self._put_bytes(start + 0x800, b"\x0f\x1f\x44\x00\x00")
        self._put_bytes(jumps, struct.pack("<iiq", start + 0x800 - jumps, 0, 0))
        self.symbols |= {"__start___jump_table": jumps, "__stop___jump_table": jumps + 16}
        static = self._room(8)
        self.symbols |= {"__start_static_call_sites": static, "__stop_static_call_sites": static}
        records, page, first = self._room(16), self._room(32), self._room(8)
        self._put_bytes(records, struct.pack("<QQ", start + 0x900, 0))
        self._put_bytes(page, struct.pack("<QQI", 0, records, 1))
        self.put(first, page)
        self.symbols["ftrace_pages_start"] = first

    def _processes(self, processes: Mapping[int, str]) -> None:
        field = self.field
        all_ = {pid: self._room(320) for pid in (0, *processes)}
        self.tasks, init = all_, all_[0]
        nodes = [address + field("task_struct", "tasks") for address in all_.values()]
        for at, (pid, address) in enumerate(all_.items()):
            self.put(nodes[at], nodes[(at + 1) % len(nodes)])
            self.put(nodes[at] + 8, nodes[at - 1])
            for name, value, size in (("pid", pid, 4), ("tgid", pid, 4), ("start_boottime", 1000 + pid, 8)):
                self.put(address + field("task_struct", name), value, size)
            self.put(address + field("task_struct", "real_parent"), init)
            self.put(address + field("task_struct", "group_leader"), address)
            name = processes.get(pid, "swapper").encode()
            self._put_bytes(address + field("task_struct", "comm"), name)
        space, node = self._room(64), self._room(528)
        self.slots = node + 16
        for pid in processes:
            entry = self._room(64)
            self.put(entry + field("pid", "tasks") + 8, all_[pid] + field("task_struct", "pid_links") + 16)
            self.put(self.slots + 8 * pid, entry)
        self.put(space + 16, node | 2)
        cpus, offsets, runqueue = self._room(4), self._room(8), self._room(64)
        self.put(cpus, 1, 4)
        self.runqueue = runqueue
        self.put(runqueue, init)
        self.put(runqueue + 8, init)
        self.put(runqueue + 16, runqueue + 16)
        self.put(runqueue + 24, runqueue + 16)
        ticks = self._room(8)
        self.symbols |= {
            "init_task": init,
            "init_pid_ns": space,
            "nr_cpu_ids": cpus,
            "__per_cpu_offset": offsets,
            "runqueues": runqueue,
            "jiffies_64": ticks,
        }

    def run(self, pid: int) -> None:
        """A processor runs it."""
        self.put(self.runqueue, self.tasks[pid])

    def _modules(self, names: list[str]) -> None:
        head, kset, where = self._room(16), self._room(32), self._room(8)
        self.modules = {name: self._room(128) for name in names}
        shown = [self._room(48) for _ in names]
        for (name, module), one in zip(self.modules.items(), shown, strict=True):
            self._put_bytes(module + self.field("module", "name"), name.encode())
            self.put(one + self.field("module_kobject", "mod"), module)
        self._list(head, [one + self.field("module", "list") for one in self.modules.values()])
        self._list(kset, [one + self.field("kobject", "entry") for one in shown])
        self.put(where, kset)
        self.symbols |= {"modules": head, "module_kset": where}

    def _list(self, head: int, nodes: list[int]) -> None:
        ring = [head, *nodes]
        for at, node in enumerate(ring):
            self.put(node, ring[(at + 1) % len(ring)])
            self.put(node + 8, ring[at - 1])

    def _sockets(self) -> None:
        tcp, established, listening = self._room(48), self._room(32), self._room(32)
        udp, slots, sock = self._room(24), self._room(32), self._room(96)
        for bucket in range(4):
            self.put(established + 8 * bucket, 1)
        for bucket in range(2):
            self.put(listening + 16 * bucket + 8, 1)
        self.bucket = listening + 8
        self.put(self.bucket, sock + 64)
        self.put(sock + 64, 1)
        self._put_bytes(sock, bytes([0, 0, 0, 0, 10, 0, 0, 9]))
        for offset, value, size in ((14, 8080, 2), (16, 2, 2), (18, 10, 1)):
            self.put(sock + offset, value, size)
        for offset, value, size in ((0, established, 8), (16, 3, 4), (24, listening, 8), (32, 1, 4)):
            self.put(tcp + offset, value, size)
        self.put(udp, slots)
        self.put(udp + 16, 1, 4)
        self.symbols |= {"tcp_hashinfo": tcp, "udp_table": udp}

    def _symbols_and_types(self) -> None:
        types = btf()
        start = self._room(len(types))
        self._put_bytes(start, types)
        said, where = BASE + 0x3000, self._room(8)
        self.put(where, said)
        self.symbols |= {"vmcoreinfo_data": where, "__start_BTF": start, "__stop_BTF": start + len(types)}
        ordered = sorted(self.symbols.items(), key=lambda one: one[1])
        names = b"".join(bytes([len(name) + 1]) + b"D" + name.encode() for name, _ in ordered)
        tokens = b"".join(bytes([one]) + b"\0" if one else b"\0\0" for one in range(256))
        parts = {
            "names": names,
            "num_syms": struct.pack("<I", len(ordered)),
            "offsets": struct.pack(f"<{len(ordered)}i", *(BASE - 1 - address for _, address in ordered)),
            "relative_base": struct.pack("<Q", BASE),
            "token_table": tokens,
            "token_index": struct.pack("<256H", *(2 * one for one in range(256))),
        }
        self.kallsyms = {f"kallsyms_{name}": self._room(len(data) + 64) for name, data in parts.items()}
        for (name, data), address in zip(parts.items(), self.kallsyms.values(), strict=True):
            assert name
            self._put_bytes(address, data)
        self._put_bytes(said, self.says())

    def says(self) -> bytes:
        """VMCOREINFO."""
        symbols = {"swapper_pg_dir": self.symbols["swapper_pg_dir"], **self.kallsyms}
        lines = ["OSRELEASE=6.1.0-toy", "PAGESIZE=4096", "NUMBER(phys_base)=0"]
        lines += [f"SYMBOL({name})={address:x}" for name, address in symbols.items()]
        return "\n".join(lines).encode() + b"\n"
