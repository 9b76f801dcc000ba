"""Frames of this machine's devices, as they come in: ARP, and TCP connections that begin.

The kernel leaves out the rest, so that what instances send at speed costs nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable

from supercloud.model.errors import Failed

_ETH_P_ALL = 0x0003
_OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h
_SO_ATTACH_FILTER = 26
_SNAP = 96
#: Frames that are taken before others have a turn.
_AT_ONCE = 256
#: Classic BPF (linux/filter.h): ARP; or IPv4, TCP, not a later fragment, with SYN and without ACK.
_PROGRAM = (
    (0x28, 0, 0, 12),  # ldh [12]
    (0x15, 10, 0, 0x0806),  # jeq ARP -> take
    (0x15, 0, 10, 0x0800),  # jeq IPv4, else leave
    (0x30, 0, 0, 23),  # ldb [23]
    (0x15, 0, 8, 6),  # jeq TCP, else leave
    (0x28, 0, 0, 20),  # ldh [20]
    (0x45, 6, 0, 0x1FFF),  # jset fragment -> leave
    (0xB1, 0, 0, 14),  # ldxb 4 * ([14] & 0xf)
    (0x50, 0, 0, 27),  # ldb [x + 27]
    (0x54, 0, 0, 0x12),  # and SYN | ACK
    (0x15, 1, 0, 0x02),  # jeq SYN -> take
    (0x06, 0, 0, 0),  # ret 0
    (0x06, 0, 0, _SNAP),  # ret
    (0x06, 0, 0, 0),
)

#: Device, frame.
Heard = Callable[[str, bytes], None]


class Sniffer:
    """Needs CAP_NET_RAW. `dropped`: frames that came faster than they were taken."""

    def __init__(self) -> None:
        """Raises: Failed."""
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._filter()
            self._socket.setblocking(False)
            self._empty()
        except OSError as error:
            raise Failed(f"frames cannot be heard: {error}") from error

    def _filter(self) -> None:
        program = b"".join(struct.pack("HBBI", *one) for one in _PROGRAM)
        buffer = ctypes.create_string_buffer(program)
        said = struct.pack("HL", len(_PROGRAM), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, said)

    def _empty(self) -> None:
        """What came in before there was a filter."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(_SNAP)

    def listen(self, heard: Heard) -> None:
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read, heard)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self, heard: Heard) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, address = self._socket.recvfrom(_SNAP)
            except OSError:
                return
            if address[2] != _OUTGOING:
                heard(address[0], data)
