"""What an instance's CPU is, and whether its blanket accelerates it."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from supercloud.blanket.domain_xml import domain
from supercloud.blanket.libvirt.hypervisor import Lifecycle
from supercloud.blanket.places import Places
from supercloud.model.names import new_id
from supercloud.platforms.qemu.accelerator import Proof
from supercloud.platforms.qemu.driver import QemuPlatform
from supercloud.ports.agent import Disk, InstanceSpec
from supercloud.ports.hypervisor import VolumeSource
from supercloud.ports.platform import Flavour

pytestmark = pytest.mark.unit
MODELS = ("Westmere", "Nehalem-v1", "EPYC")


def _xml(model: str, flavour: Flavour, places: Places) -> str:
    spec = InstanceSpec(
        id=new_id(),
        name="web",
        cloud=new_id(),
        vcpus=1,
        memory_mib=64,
        cpu_model=model,
        disks=(Disk(volume=new_id(), size_bytes=1 << 30, boot=True),),
        nics=(),
    )
    source = VolumeSource(volume=spec.disks[0].volume, path=places.disk(spec.id), secret=new_id())
    return domain(spec, sources=lambda _: source, places=places, flavour=flavour)


@pytest.mark.parametrize("flavour", Flavour)
def test_the_cpu_is_the_model_that_is_asked_for_and_no_other(flavour: Flavour, tmp_path: Path) -> None:
    """Neither the host's own nor one that libvirt would take in its place."""
    for model in MODELS:
        root = ET.fromstring(_xml(model, flavour, Places(run=tmp_path, data=tmp_path)))  # noqa: S314 - our own
        (cpu,) = root.iterfind("cpu")
        assert (cpu.get("mode"), cpu.get("match")) == ("custom", "exact")
        (asked,) = cpu.iterfind("model")
        assert (asked.text, asked.get("fallback")) == (model, "forbid")


class _Refused(Exception):
    """libvirt's."""


class _Libvirt:
    """A connection to one whose QEMU can use KVM, or not."""

    def __init__(self, *, offers: bool) -> None:
        self.offers = offers

    def on_open(self, _: object) -> None: ...

    def on_lifecycle(self, _: object) -> None: ...

    async def call(self, work: Callable[[Any], Any]) -> Any:
        return work(self)

    def getDomainCapabilities(self, *wanted: object) -> str:  # noqa: N802 - libvirt's name
        if wanted[-1] == "kvm" and not self.offers:
            raise _Refused
        return "<domainCapabilities/>"


@pytest.mark.parametrize(
    ("device", "offers", "flavour"),
    [
        (True, True, Flavour.KVM),
        (True, False, Flavour.TCG),
        (False, True, Flavour.TCG),
    ],
)
async def test_a_blanket_whose_kvm_cannot_be_used_says_that_it_is_of_flavour_tcg(
    device: bool, offers: bool, flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = ModuleType("libvirt")
    bindings.libvirtError = _Refused  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "libvirt", bindings)
    if device:
        (tmp_path / "kvm").touch()
    connection: Any = _Libvirt(offers=offers)
    places = Places(run=tmp_path, data=tmp_path)
    lifecycle = Lifecycle(connection, sources=lambda _: None, places=places, kvm=tmp_path / "kvm")  # type: ignore[arg-type,return-value]
    assert await lifecycle.flavour() is flavour


@pytest.mark.parametrize("nesting", [True, False])
async def test_a_platform_without_nesting_has_flavour_tcg_alone(
    nesting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = QemuPlatform(tmp_path, None)  # type: ignore[arg-type]

    async def proven() -> Proof:
        return Proof(accelerator="kvm", nesting=nesting, reason="seen")

    monkeypatch.setattr(platform, "_proven", proven)
    declared = await platform.declare()
    assert declared.nesting is nesting
    assert declared.flavours == ({Flavour.KVM, Flavour.TCG} if nesting else {Flavour.TCG})
