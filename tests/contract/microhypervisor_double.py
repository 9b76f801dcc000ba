"""Stands for QEMU and the micro-hypervisor in it: its channel, its monitor, partitions that only write `B`.

Run as a program, in the machine's directory, with the two listening sockets that QEMU inherits. Beyond the
channel's requests it hears nothing; a test tells it what else happens to it by files in that directory:
`park-p0` (the partition is parked), `hang` (it answers nobody), `noise` (before each reply), `hurry` (its
clock is years ahead).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monitor_double import CLOCK_KHZ, MonitorDouble, Refusal
from tiny_guest import TinyImages

from supercloud.platforms.microhypervisor.command import Plan, name
from supercloud.platforms.microhypervisor.frames import Frame, Receiver
from supercloud.platforms.microhypervisor.requests import Request, State

_REFUSED = 0xFF


Argv = Callable[[Plan], list[str]]


def argv(plan: Plan) -> list[str]:
    """In the place of QEMU's command line."""
    sizes = [str(plan.partitions), str(plan.memory_mib)]
    return [sys.executable, __file__, str(plan.channel_fd), str(plan.qmp_fd), *sizes]


BINARY = Path(sys.executable).name


class DoubledImages(TinyImages):
    """With something in the micro-hypervisor's place that nobody loads."""

    def microhypervisor(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        image = self.directory / "microhypervisor.elf"
        image.touch()
        return image


@dataclass
class _Partition:
    name: str
    memory: int
    state: State = State.STOPPED
    launches: int = 0
    reason: str = ""
    written: bytes = b""

    def start(self) -> None:
        if self.state is State.RUNNING:
            raise Refusal(4, "it runs already")
        self.state, self.launches, self.reason = State.RUNNING, self.launches + 1, ""
        self.written += b"B"

    def stop(self) -> None:
        self.state, self.reason = State.STOPPED, "stopped by the admin"

    def listed(self) -> bytes:
        if Path(f"park-{self.name}").exists():
            self.state, self.reason = State.PARKED, "no frame is left"
        fields = (self.name.encode(), self.state, 1, self.memory, self.launches, self.reason.encode())
        return struct.pack("<16sBBQQ80s", *fields)


class _Double:
    def __init__(self, partitions: int, memory_mib: int) -> None:
        made = [_Partition(name(number), memory_mib << 20) for number in range(partitions)]
        self._partitions = {one.name: one for one in made}
        self._monitor = MonitorDouble()
        self._one_user = asyncio.Lock()

    async def channel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver = Receiver()
        async with self._one_user:
            while data := await reader.read(4096):
                for frame in list(receiver.feed(data)):
                    if Path("hang").exists():
                        continue
                    if Path("noise").exists():
                        writer.write(os.urandom(3000) + bytes(1036))
                    writer.write(self._answer(frame).encode())
            writer.close()

    def _answer(self, frame: Frame) -> Frame:
        try:
            payload = self._payload(frame)
        except Refusal as refusal:
            said = bytes([refusal.code]) + refusal.text.encode()
            return Frame(kind=_REFUSED, sequence=frame.sequence, payload=said)
        return Frame(kind=frame.kind | 0x80, sequence=frame.sequence, payload=payload)

    def _payload(self, frame: Frame) -> bytes:
        if frame.kind == Request.LIST:
            listed = [one.listed() for one in self._partitions.values()]
            return bytes([len(listed)]) + b"".join(listed)
        if frame.kind == Request.HELLO:
            return struct.pack("<BBQ", 1, 8, CLOCK_KHZ)
        partition = self._partitions.get(frame.payload[:16].rstrip(b"\0").decode())
        if partition is None:
            raise Refusal(3, "there is no such partition")
        match frame.kind:
            case Request.START:
                partition.start()
                self._monitor.launch(partition.name)
                return b""
            case Request.STOP:
                partition.stop()
                return b""
            case Request.CONSOLE:
                at = int.from_bytes(frame.payload[16:24], "little")
                text = partition.written[at : at + 512]
                return (min(at, len(partition.written)) + len(text)).to_bytes(8, "little") + text
        if Path("hurry").exists():
            self._monitor.skipped = 1 << 62
        runs = partition.state is State.RUNNING
        return self._monitor.answer(Request(frame.kind), partition.name, frame.payload[16:], runs=runs)

    async def monitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
        writer.write(_line({"QMP": {"version": version, "capabilities": []}}))
        while data := await reader.read(4096):
            asked = json.loads(data)  # the client ends no line, and waits for each answer
            if asked["execute"] == "block_resize":
                os.truncate(asked["arguments"]["node-name"], asked["arguments"]["size"])
            if asked["execute"] == "set_link":
                Path(f"link-{asked['arguments']['name']}").write_text(str(asked["arguments"]["up"]))
            writer.write(_line({"return": {}, "id": asked.get("id")}))
        writer.close()


def _line(said: dict[str, object]) -> bytes:
    return json.dumps(said).encode() + b"\n"


async def _main(channel_fd: int, qmp_fd: int, partitions: int, memory_mib: int) -> None:
    double = _Double(partitions, memory_mib)
    await asyncio.start_unix_server(double.channel, sock=socket.socket(fileno=channel_fd))
    await asyncio.start_unix_server(double.monitor, sock=socket.socket(fileno=qmp_fd))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
