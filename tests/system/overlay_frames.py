"""Frames and packets made by hand, and ears for them: what a hostile instance, peer or provider sends."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from overlay_guest import enter


def arp(to: str, source: str, sender: str, ip: str, word: bytes) -> bytes:
    """A reply in a frame from `source`: `ip` is at `sender`. `word` is its padding."""
    body = b"\x00\x01\x08\x00\x06\x04\x00\x02" + mac(sender) + socket.inet_aton(ip)
    return mac(to) + mac(source) + b"\x08\x06" + body + mac(to) + socket.inet_aton("0.0.0.0") + word  # noqa: S104


def datagram(to: str, source: str, ip: str, target_ip: str, word: bytes, *, port: int = 12345) -> bytes:
    """A frame with a UDP datagram, `port` at both ends."""
    return mac(to) + mac(source) + b"\x08\x00" + packet(ip, target_ip, word, port=port, sender_port=port)


def packet(ip: str, target_ip: str, body: bytes, *, port: int, sender_port: int = 12345) -> bytes:
    """IPv4 with UDP in it, without a UDP checksum."""
    udp = b"".join(n.to_bytes(2, "big") for n in (sender_port, port, 8 + len(body), 0)) + body
    head = b"\x45\x00" + (20 + len(udp)).to_bytes(2, "big") + b"\x00\x00\x00\x00\x40\x11\x00\x00"
    head += socket.inet_aton(ip) + socket.inet_aton(target_ip)
    total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + (~total & 0xFFFF).to_bytes(2, "big") + head[12:] + udp


def version_6(to: str, source: str, word: bytes) -> bytes:
    head = b"\x60\x00\x00\x00" + len(word).to_bytes(2, "big") + b"\x3b\x40" + bytes(15) + b"\x01" + bytes(16)
    return mac(to) + mac(source) + b"\x86\xdd" + head + word


def vxlan(vni: int, frame: bytes) -> bytes:
    return b"\x08\x00\x00\x00" + vni.to_bytes(3, "big") + b"\x00" + frame


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def inside(namespace: str | None, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket that belongs to a namespace: the thread goes there and back."""
    if namespace is None:
        return make()
    enter(namespace)
    try:
        return make()
    finally:
        enter("/proc/1/ns/net")


def packet_socket(device: str) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    one.bind((device, 0))
    one.setblocking(False)
    return one


def say(namespace: str, device: str, frame: bytes) -> None:
    with inside(namespace, lambda: packet_socket(device)) as one:
        one.send(frame)


def throw(namespace: str | None, whole: bytes) -> None:
    """A whole IPv4 packet, whatever it says of its sender, by the route to whom it names."""
    with inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as one:
        one.sendto(whole, (socket.inet_ntoa(whole[16:20]), 0))


class Listener:
    """What arrives at an instance."""

    def __init__(self, instance: str) -> None:
        self._socket = inside(instance, lambda: packet_socket("g0"))
        self._frames: list[bytes] = []

    def heard(self, word: bytes) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._frames.append(self._socket.recv(2048))
        return any(word in frame for frame in self._frames)

    def close(self) -> None:
        self._socket.close()
