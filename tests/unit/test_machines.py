"""Machines of a blanket's own, without libvirt: what they are made of, where, and who reaches them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from supercloud.agent.machines import AgentMachines
from supercloud.blanket.machines.domain import PREFIX, file_path, machine_domain, machine_of
from supercloud.blanket.machines.home import Home, Homes, Record
from supercloud.blanket.machines.network import Way, ruleset, way_of
from supercloud.blanket.overlay import filter as packet_filter
from supercloud.blanket.overlay.plan import Filter
from supercloud.keeper.egress import tap_of
from supercloud.model.errors import Exhausted, Failed, InvalidInput, NotFound, Refused
from supercloud.model.names import new_id
from supercloud.model.placement import Confidentiality
from supercloud.platforms.blanket import BlanketPlatform
from supercloud.ports.agent import PlaceImage
from supercloud.ports.machines import Inside, MachineFile, MachineImage, MachineReport, MakeMachine
from supercloud.ports.platform import BlanketMachine, Declaration, Flavour, MachineState, Platform

pytestmark = pytest.mark.unit
SECRET = b'{"secret": "join-secret-77"}'


def image() -> MachineImage:
    kernel, initrd, root, bundle = (
        MachineFile(digest="sha256:" + digit * 64, size_bytes=9) for digit in "1234"
    )
    return MachineImage(kernel=kernel, initrd=initrd, root=root, bundle=bundle, cmdline="console=ttyS0")


def wanted(**changed: object) -> MakeMachine:
    made = MakeMachine(
        machine=new_id(),
        image=image(),
        vcpus=2,
        memory_mib=768,
        disk_bytes=4 << 30,
        birth=base64.b64encode(SECRET).decode(),
    )
    return replace(made, **changed)


def way(slot: int = 0, *, own: str = "10.0.2.15", machine: str = "0a1b2c3d-" + "0" * 28) -> Way:
    return way_of(machine, slot, own=own, resolver="10.0.2.3")


def test_it_boots_the_image_with_its_birth_in_a_file_and_svm_to_use(tmp_path: Path) -> None:
    asked = wanted()
    record = Record(wanted=replace(asked, birth=""), slot=1)
    home = Home(tmp_path / asked.machine)
    home.prepare()
    home.write_birth(SECRET)
    files = {name: tmp_path / name for name in ("kernel", "initrd", "root", "bundle")}
    xml = machine_domain(record, home, files, way(1), log=tmp_path / "log", processors=1)
    assert "join-secret" not in xml
    root = ET.fromstring(xml)  # noqa: S314
    assert root.get("type") == "kvm" and root.findtext("name") == PREFIX + asked.machine
    assert root.findtext("vcpu") == "1", "no more than there are"
    entry = root.find("sysinfo[@type='fwcfg']/entry")
    assert entry is not None and entry.get("name") == "opt/supercloud/birth"
    assert Path(entry.get("file") or "").read_bytes() == SECRET
    assert (home.birth.stat().st_mode & 0o777) == 0o600
    cpu = root.find("cpu")
    assert cpu is not None and cpu.get("mode") == "host-passthrough"
    assert root.findtext("os/cmdline") == f"console=ttyS0 {way(1).argument}"
    disks = [
        (one.find("target").get("dev"), one.find("driver").get("type"), one.find("readonly") is not None)  # type: ignore[union-attr]
        for one in root.iterfind("devices/disk")
    ]
    assert disks == [("vda", "raw", True), ("vdb", "raw", True), ("vdc", "qcow2", False)]
    slots = [one.get("slot") for one in root.iterfind("devices/*/address[@type='pci']")]
    assert slots == sorted(set(slots)), "in the order in which the image counts them"


def test_nothing_of_instances_takes_it_for_one() -> None:
    machine = new_id()
    assert not (PREFIX + machine).startswith("sc-")
    assert machine_of(PREFIX + machine) == machine and machine_of(f"sc-{machine}") is None
    device = way_of(machine, 0, own="10.0.2.15", resolver="10.0.2.3").device
    assert device != tap_of(machine) and len(device) <= 15
    assert not device.startswith((packet_filter.TAP_PREFIX, "br-", "vx-"))


def test_its_addresses_are_its_own_at_every_depth_and_told_to_its_boot() -> None:
    first = way(0)
    assert (first.gateway, first.address, first.port) == ("169.254.64.1", "169.254.64.2", 51821)
    assert first.argument == "supercloud.net=169.254.64.2/30,169.254.64.1,10.0.2.3"
    assert way(1).address == "169.254.64.6" and way(511).address == "169.254.71.254"
    inside = way(0, own=first.address)
    assert inside.address == "169.254.72.2", "not in its parent's own network"
    assert way(0, own=inside.address).address == "169.254.80.2"


def test_the_boot_heeds_it() -> None:
    from supercloud.images.blanket import RECIPE

    boot = (RECIPE / "boot").read_text()
    assert "supercloud.net=*" in boot and "10.0.2.15/24 10.0.2.2 10.0.2.3" in boot


def test_it_may_say_what_a_blanket_has_to_and_nothing_to_its_parent() -> None:
    one, two = way(0), way(1, machine="ffff2c3d-" + "0" * 28)
    commands = ruleset([one, two], underlay="eth0", control="10.0.2.2:7444")["nftables"]
    rules = [entry["add"]["rule"] for entry in commands if "rule" in entry.get("add", {})]
    assert all(rule["table"] in {packet_filter.TABLE, "supercloud-machines"} for rule in rules)
    allowed = [rule["expr"] for rule in rules if rule["chain"] == packet_filter.MACHINES]
    for rule in allowed:
        said = json.dumps(rule)
        assert '"eth0"' in said, "to and from the underlay alone: not the mesh, bridges, or another machine"
        assert rule[-1] == {"accept": None}
        if f'"iifname"}}}}, "right": "{one.device}"' in said:
            assert one.address in said, "by its own address alone"
    assert {rule["chain"] for rule in rules} == {packet_filter.MACHINES, "prerouting", "postrouting"}
    ports = [rule["expr"][-1] for rule in rules if rule["chain"] == "postrouting"]
    assert ports[0] == {"masquerade": {"port": 51821}}, "not this blanket's own 51820"
    inwards = [rule["expr"][-1]["dnat"]["addr"] for rule in rules if rule["chain"] == "prerouting"]
    assert inwards == [one.address, two.address]


def test_where_nothing_is_inside_there_is_no_table_for_it() -> None:
    commands = ruleset([], underlay="eth0", control="10.0.2.2:7444")["nftables"]
    assert commands[-1] == {"delete": {"table": {"family": "inet", "name": "supercloud-machines"}}}
    assert not [entry for entry in commands if "rule" in entry.get("add", {})]


def test_the_overlays_rules_lead_there_and_leave_it_as_it_is() -> None:
    commands = packet_filter.ruleset(Filter(), underlay="eth0", listen_port=51820)["nftables"]
    chain = {"family": "inet", "table": packet_filter.TABLE, "name": packet_filter.MACHINES}
    assert {"add": {"chain": chain}} in commands
    assert {"flush": {"chain": chain}} not in commands, "who is inside stays connected over every change"
    forward = [
        entry["add"]["rule"]["expr"]
        for entry in commands
        if entry.get("add", {}).get("rule", {}).get("chain") == "forward"
    ]
    jumps = [rule for rule in forward if rule[-1] == {"jump": {"target": packet_filter.MACHINES}}]
    assert len(jumps) == 2
    assert commands.index({"add": {"chain": chain}}) < min(
        index for index, entry in enumerate(commands) if "rule" in entry.get("add", {})
    )


def test_a_home_is_whole_or_not_there(tmp_path: Path) -> None:
    homes = Homes(tmp_path / "machines")
    homes.make()
    asked = wanted()
    home = homes.home(asked.machine)
    assert home.record() is None and homes.free_slot() == 0
    home.prepare()
    assert home.record() is None, "not before its record is written"
    home.write(Record(wanted=replace(asked, birth=""), slot=0))
    assert homes.free_slot() == 1 and "join-secret" not in (home.path / "machine.json").read_text()
    found = home.record()
    assert found is not None and found.same_as(asked)
    newer = replace(asked.image, bundle=MachineFile(digest="sha256:" + "9" * 64, size_bytes=1))
    assert found.same_as(replace(asked, image=newer)), "the agent has its own by now"
    assert not found.same_as(replace(asked, memory_mib=1024))
    (home.path / "machine.json").write_text("{")
    with pytest.raises(Failed, match="damaged"):
        home.record()
    assert list(homes.records()) == [], "it holds no other up"
    home.erase()
    home.erase()
    assert list(homes.records()) == []


def test_parts_of_images_are_kept_by_their_digests(tmp_path: Path) -> None:
    assert file_path(tmp_path, "sha256:" + "ab" * 32) == tmp_path / ("ab" * 32)


# ---------------------------------------------------------------- the agent, and the driver over it


class Hosted:
    """ports.hypervisor.Machines in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.no = ""
        self.made: dict[str, MakeMachine] = {}
        self.running: set[str] = set()

    async def why_not(self) -> str:
        return self.no

    def file(self, digest: str) -> Path:
        return file_path(self.folder, digest)

    async def create(self, wanted: MakeMachine) -> MachineReport:
        self.made.setdefault(wanted.machine, wanted)
        return await self.start(wanted.machine)

    async def start(self, machine: str) -> MachineReport:
        self.running.add(machine)
        return await self.inspect(machine)

    async def stop(self, machine: str, *, force: bool) -> MachineReport:
        self.running.discard(machine)
        return await self.inspect(machine)

    async def destroy(self, machine: str) -> None:
        self.made.pop(machine, None)
        self.running.discard(machine)

    async def inspect(self, machine: str) -> MachineReport:
        if machine not in self.made:
            raise NotFound(f"there is no machine {machine}")
        state = MachineState.RUNNING if machine in self.running else MachineState.STOPPED
        memory_mib = self.made[machine].memory_mib
        slot = list(self.made).index(machine)
        return MachineReport(machine=machine, state=state, memory_mib=memory_mib, slot=slot)

    async def list(self) -> list[MachineReport]:
        return [await self.inspect(machine) for machine in self.made]


class Fetched:
    """agent.images.ImageFetcher, which has everything."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def place(self, request: PlaceImage, path: Path) -> None:
        self.asked.append(request.digest)
        path.touch(0o600)


async def test_what_this_blanket_booted_from_itself_need_not_travel(tmp_path: Path) -> None:
    """Found by digest among its own disks, so that another image's is never taken for it."""
    content, other = b"root" * 600_000, b"toor" * 600_000
    disks = tuple(tmp_path / name for name in ("gone", "vda", "vdb"))
    disks[1].write_bytes(other)
    disks[2].write_bytes(content)
    root = MachineFile(digest="sha256:" + hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    asked = replace(image(), root=root)
    hosted, fetched = Hosted(tmp_path), Fetched()
    agent = AgentMachines(machines=hosted, images=fetched, own=disks)  # type: ignore[arg-type]
    await asyncio.gather(agent.place(asked), agent.place(asked))
    assert hosted.file(root.digest).read_bytes() == content
    for part in (asked.kernel, asked.initrd, asked.bundle):
        assert hosted.file(part.digest).read_bytes() == b"", "that came from elsewhere"
    assert not list(tmp_path.glob("*.own"))


async def test_the_driver_asks_the_agent_and_the_agent_fetches_before_it_makes(tmp_path: Path) -> None:
    hosted, fetched = Hosted(tmp_path), Fetched()
    agent = AgentMachines(machines=hosted, images=fetched)  # type: ignore[arg-type]
    found = image()

    async def images(_: str) -> MachineImage:
        return found

    declared = Declaration(
        kind="blanket",
        accelerator="tcg",
        nesting=True,
        flavours=frozenset({Flavour.KVM}),
        confidentiality=Confidentiality.PROCEDURAL,
        abilities=frozenset(),
        reason="",
    )
    inside = Inside(declaration=declared, inner=("10.0.2.2:52001",), endpoint=lambda port: f"10.0.2.2:{port}")
    platform: Platform = BlanketPlatform(inside, agent, images)
    spec = BlanketMachine(id=new_id(), name="n", image="sha256:" + "0" * 64, memory_mib=64, birth=SECRET)
    made = await platform.create(spec)
    assert fetched.asked == [part.digest for part in (found.kernel, found.initrd, found.root, found.bundle)]
    assert hosted.file(found.root.digest).stat().st_mode & 0o777 == 0o644, "every QEMU reads it"
    assert base64.b64decode(hosted.made[spec.id].birth) == SECRET
    assert "join-secret" not in repr(hosted.made[spec.id])
    assert (made.state, made.wireguard) == (MachineState.RUNNING, "10.0.2.2:52001")
    other = await platform.create(replace(spec, id=new_id()))
    assert other.wireguard is None, "nothing is forwarded to it"
    assert {one.id for one in await platform.list()} == {spec.id, other.id}
    assert (await platform.stop(spec.id)).state is MachineState.STOPPED
    assert (await platform.start(spec.id)).state is MachineState.RUNNING
    await platform.destroy(spec.id)
    await platform.destroy(spec.id)
    with pytest.raises(NotFound):
        await platform.inspect(spec.id)
    assert platform.blanket_endpoint(7444) == "10.0.2.2:7444"
    with pytest.raises(InvalidInput):
        platform.blanket_endpoint(0)
    with pytest.raises(Exhausted, match="available in the blanket around it"):
        await platform.create(replace(spec, id=new_id(), memory_mib=1 << 20))
    hosted.no = "it has no /dev/kvm to run one with"
    with pytest.raises(Refused, match="no /dev/kvm"):
        await platform.create(replace(spec, id=new_id()))
