"""A machine of a blanket inside a blanket: whom it reaches, and who reaches it, by the kernel's own rules."""

from __future__ import annotations

import asyncio

from overlay_inside import WORLD, Process, Scene, check, sh

from supercloud.blanket.machines.network import way_of

_MACHINE = "0f0f0f0f-2222-4000-8000-000000000000"
_NAME = "nested"
_ECHO = """
import socket
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.bind(("", 51820))
it.settimeout(60)
said, whence = it.recvfrom(99)
it.sendto(said, whence)
"""
_ASK = """
import socket
it = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
it.settimeout(5)
for _ in range(8):
    it.sendto(b"hello", ("{host}", {port}))
    try:
        raise SystemExit(it.recv(99) != b"hello")
    except OSError:
        continue
raise SystemExit(1)
"""


async def machines(scene: Scene) -> None:
    """In blanket `one`, beside its instances."""
    one = scene.one
    way = way_of(_MACHINE, 0, own=one.underlay, resolver="10.0.2.2")
    await one.call("machines", [[_MACHINE, 0]])
    await sh("ip", "netns", "add", _NAME)
    for command in (
        ["ip", "tuntap", "add", "g0", "mode", "tap"],
        ["ip", "addr", "add", f"{way.address}/30", "dev", "g0"],
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "set", "g0", "up"],
        ["ip", "route", "add", "default", "via", way.gateway],
    ):
        await sh(*command, namespace=_NAME)
    cable = await Process.start("pump", one.name, way.device, _NAME)
    await cable.line()
    try:
        await _reaches(scene, way.gateway)
        await one.call("apply", scene.cloud.mesh(one))
        check("a change of the overlay leaves a machine connected", await _pings(WORLD))
        check("its WireGuard is reached at a port of its parent", await _heard(one.underlay, way.port))
        check("and at no other", not await _heard(one.underlay, way.port + 1))
        await one.call("machines", [])
        _, links = await sh("ip", "-brief", "link", namespace=one.name)
        check("nothing of it stays", way.device not in links, links=links)
    finally:
        await cable.kill()
        await sh("ip", "netns", "del", _NAME)


async def _reaches(scene: Scene, gateway: str) -> None:
    check("a machine reaches the world", await _pings(WORLD))
    for what, ip in (
        ("its parent", gateway),
        ("its parent's uplink", scene.one.underlay),
        ("its parent's mesh", scene.two.address),
        ("an instance beside it", scene.alice.ip),
    ):
        check(f"a machine does not reach {what}", not await _pings(ip, tries=2, within_s=2))


async def _pings(ip: str, *, tries: int = 3, within_s: int = 15) -> bool:
    asked = f"ping -n -q -c {tries} -i 0.2 -W {within_s} {ip}".split()
    code, _ = await sh(*asked, namespace=_NAME, ok=False)
    return code == 0


async def _heard(host: str, port: int) -> bool:
    """What the provider's network sends to that port is answered by who listens in the machine."""
    echo = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", _NAME, "python3", "-c", _ECHO),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        code, _ = await sh("python3", "-c", _ASK.format(host=host, port=port), ok=False)
    finally:
        if echo.returncode is None:
            echo.kill()
        await echo.wait()
    return code == 0
