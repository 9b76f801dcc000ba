"""What instances do, each in a process of its own, which has to start fast: nothing but the standard library.

`pump BLANKET TAP INSTANCE`: the cable, `serve PORT`: an echo, `talk IP PORT`: one long connection. Each says
`{}` when it is ready.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import sys
import threading
import time

TCP_PORT = 8080
MARKER = b"IN-CLEAR-0123456789"
_NEW_NET = 0x40000000  # CLONE_NEWNET
_TAP = 0x0002 | 0x1000  # IFF_TAP, IFF_NO_PI
_ATTACH = 0x400454CA  # TUNSETIFF


def enter(namespace: str) -> None:
    """Take this thread there; a path goes as well as a name."""
    handle = os.open(os.path.join("/run/netns", namespace), os.O_RDONLY)  # noqa: PTH118 - pathlib takes its time
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _NEW_NET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(handle)


def ready() -> None:
    print("{}", flush=True)


def pump(blanket: str, tap: str, instance: str) -> None:
    """What a hypervisor and a guest's network card do: frames between a port and a namespace's device."""
    ends = []
    for namespace, device in ((blanket, tap), (instance, "g0")):
        enter(namespace)
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _ATTACH, struct.pack("16sH22x", device.encode(), _TAP))
        ends.append(end)
    ready()
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    while True:
        for end in select.select(ends, [], [])[0]:
            with contextlib.suppress(OSError):  # the other end is down for a moment
                os.write(other[end], os.read(end, 65536))


def serve(port: int) -> None:
    """Gives back what it is sent."""

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    server = socket.create_server(("0.0.0.0", port), reuse_port=True)  # noqa: S104 - the filter is what is tried
    ready()
    while True:
        threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def talk(ip: str, port: int) -> None:
    """One connection; numbered messages until standard input ends; says how it went, and for each line there
    how many went back and forth so far."""
    connection = socket.create_connection((ip, port), timeout=120)
    ready()
    count, longest = 0, 0.0
    try:
        while True:
            if select.select([sys.stdin], [], [], 0.02)[0]:
                if not sys.stdin.readline():
                    break
                print(json.dumps({"count": count}), flush=True)
            message = b"%08d %s\n" % (count, MARKER)
            begun = time.monotonic()
            connection.sendall(message)
            if connection.recv(len(message), socket.MSG_WAITALL) != message:
                raise OSError("another answer")
            longest = max(longest, time.monotonic() - begun)
            count += 1
        outcome = {"kept": True, "count": count, "longest_ms": round(longest * 1000)}
    except OSError as error:
        outcome = {"kept": False, "count": count, "why": repr(error)}
    print(json.dumps(outcome), flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["pump", blanket, tap, instance]:
            pump(blanket, tap, instance)
        case ["serve", port]:
            serve(int(port))
        case ["talk", ip, port]:
            talk(ip, int(port))


if __name__ == "__main__":
    main()
