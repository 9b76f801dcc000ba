"""Plays the machines of a simulated platform: `python -m supercloud.cli.bench.fleet BIRTHS STATE`.

Each machine whose birth data appears in BIRTHS joins with its single-use secret, dials in over mutual TLS
and renews its rights every ten seconds, all with the agent's own code. Only its instances and volumes are
entries of a dictionary. It ends with the program that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import logging
import resource
import secrets
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from asyncinotify import Inotify, Mask

from supercloud import __version__, logs
from supercloud.agent.birth import Birth, read_birth
from supercloud.agent.channel import Channel
from supercloud.agent.dial import Dialer
from supercloud.agent.identity import Passport, Safe
from supercloud.agent.main import identify
from supercloud.cli.bench.children import until_left_alone
from supercloud.model.errors import Refused, SupercloudError
from supercloud.model.right import Renewal, RightTerms, RunRight
from supercloud.ports import agent as a
from supercloud.ports import overlay as o
from supercloud.ports.controller import Hello, RenewRights
from supercloud.ports.platform import Flavour
from supercloud.trust.announce import announce
from supercloud.wire.proxies import agent_handlers

_RENEW_EVERY_S = RightTerms().renew_every_s


class _Group:
    """One group of ports.agent: what a simulated machine does not have is refused."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_: object) -> None:
            raise Refused(f"a simulated machine cannot {name}")

        return refuse


class Machine:
    """One blanket: ports.agent.Agent, as far as making and running instances needs it."""

    def __init__(self, birth: Birth, passport: Passport) -> None:
        self.birth = birth
        self.passport = passport
        self.states: dict[str, a.RunState] = {}
        self.rights: dict[str, RunRight] = {}
        self.copies: dict[str, a.VolumeReport] = {}
        self._asked: dict[str, Renewal] = {}
        self.instances = cast(a.InstancesAgent, _Instances(self))
        self.volumes = cast(a.VolumesAgent, _Volumes(self))
        self.overlay = cast(o.OverlayAgent, _Overlay(self))
        self.migration = cast(a.MigrationAgent, _Group(self))
        self.streams = cast(a.StreamsAgent, _Group(self))
        self._boot_id = secrets.token_hex(16)
        self._channel = Channel(
            dial=Dialer(birth.endpoint, self.passport).channel,
            handlers=lambda: agent_handlers(self),
            greet=self._greet,
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._channel.run())
            group.create_task(self._beat())

    async def renew(self, rights: Iterable[RunRight]) -> None:
        """One heartbeat, as the keeper does it: what was not answered is asked again as it was.

        Raises:
            SupercloudError: it was not answered.
        """
        asked = tuple(self._asked.setdefault(one.instance, _renewal(one)) for one in rights)
        for answer in (await self._channel.renew(RenewRights(renewals=asked))).answers:
            self._asked.pop(answer.instance, None)
            if answer.right is not None:
                self.rights[answer.instance] = answer.right

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            try:
                if self.rights:
                    await self.renew([*self.rights.values()])
            except SupercloudError as error:
                sys.stderr.write(f"not renewed: {error.message}\n")

    async def _greet(self) -> Hello:
        return Hello(
            agent_version=__version__,
            boot_id=self._boot_id,
            connection=secrets.token_hex(16),
            epochs={instance: right.epoch for instance, right in self.rights.items()},
            sealing_key=self.passport.keys.sealing.public,
        )

    async def report(self) -> a.BlanketReport:
        return a.BlanketReport(
            blanket=self.birth.blanket,
            flavour=Flavour.KVM,
            agent_version=__version__,
            boot_id=self._boot_id,
            cpu_models=(),
            memory_mib=1 << 20,
            memory_free_mib=1 << 20,
            disk_free_bytes=1 << 44,
        )


def _renewal(right: RunRight) -> Renewal:
    return Renewal(
        instance=right.instance, epoch=right.epoch, nonce=right.nonce, request=secrets.token_hex(16)
    )


class _Instances(_Group):
    async def start(self, request: a.StartInstance) -> a.InstanceReport:
        """A pushed right is worth nothing until it was renewed."""
        await self._machine.renew([request.right])
        self._machine.states[request.spec.id] = a.RunState.RUNNING
        return self._said(request.spec.id)

    async def list(self) -> list[a.InstanceReport]:
        return [self._said(instance) for instance in self._machine.states]

    def _said(self, instance: str) -> a.InstanceReport:
        right = self._machine.rights.get(instance)
        state = self._machine.states.get(instance, a.RunState.ABSENT)
        return a.InstanceReport(instance=instance, state=state, epoch=right.epoch if right else None)


class _Volumes(_Group):
    async def place_image(self, request: a.PlaceImage) -> None:
        """Nothing boots from it."""

    async def make(self, request: a.MakeVolume) -> a.VolumeReport:
        made = a.VolumeReport(
            volume=request.volume, copy=request.copy, size_bytes=request.size_bytes, allocated_bytes=0
        )
        return self._machine.copies.setdefault(request.copy, made)

    async def open(self, request: a.OpenVolume) -> None:
        """Made is open."""

    async def list(self) -> list[a.VolumeReport]:
        return [*self._machine.copies.values()]


class _Overlay(_Group):
    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._key = base64.b64encode(secrets.token_bytes(32)).decode()
        self._generation = 0

    async def apply(self, request: o.Mesh) -> o.MeshReport:
        self._generation = request.generation
        return await self.report()

    async def locate(self, request: o.Location) -> None:
        """Nobody sends to it."""

    async def report(self) -> o.MeshReport:
        said = announce(
            identity=self._machine.passport.keys.identity,
            certificate_pem=self._machine.passport.certificate_pem,
            blanket=self._machine.birth.blanket,
            key=self._key,
            next_key=None,
            generation=1,
        )
        return o.MeshReport(generation=self._generation, key=self._key, announcement=said)


async def _live(path: Path, state: Path) -> None:
    born = read_birth(path)
    # The platform says where a blanket finds this machine; the fleet is on it.
    birth = replace(born, endpoint="127.0.0.1:" + born.endpoint.rpartition(":")[2])
    passport = await identify(birth, Safe(state / birth.blanket))
    await Machine(birth, passport).run()


async def _watch(births: Path, state: Path) -> None:
    """Bring every machine to life that is there or appears. Until cancelled."""
    async with asyncio.TaskGroup() as group:
        living: set[str] = set()

        def look() -> None:
            for path in births.iterdir():
                if not path.name.startswith(".") and path.name not in living:
                    living.add(path.name)
                    group.create_task(_live(path, state))

        with Inotify() as inotify:
            inotify.add_watch(births, Mask.MOVED_TO)
            look()
            async for _ in inotify:
                look()


async def _run(births: Path, state: Path) -> None:
    watching = asyncio.create_task(_watch(births, state))
    leaving = asyncio.create_task(until_left_alone())
    await asyncio.wait((watching, leaving), return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    await asyncio.wait((watching,))
    if not watching.cancelled():
        watching.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("births", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--whole-agent", action="store_true", help="load all that the real agent loads")
    given = parser.parse_args()
    # Not to standard output, which is the bench's to read, and which a thousand machines would fill.
    logs.configure(level=logging.ERROR)
    if given.whole_agent:
        importlib.import_module("supercloud.agent.__main__")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each machine is a connection
    asyncio.run(_run(given.births, given.state))


if __name__ == "__main__":
    main()
