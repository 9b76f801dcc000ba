"""Strategies for whole clouds, small enough that two of them often have something in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from hypothesis import strategies as st

from supercloud.cli.declared.read import Declared
from supercloud.model.levels import Level
from supercloud.model.names import MIB
from supercloud.model.placement import ANYWHERE, Apart, Confidentiality, Cost, Placement, Price
from supercloud.model.quota import UNLIMITED, Quota
from supercloud.ports.platform import Flavour
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    Publish,
    RunInstance,
)
from supercloud.services.views import WantedCloud

_CIDRS = ("10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/24", "192.168.7.0/28")
_texts = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=("Cs",)) | st.sampled_from("\n: #-'\"\\\t\r"),
    max_size=40,
)
#: None is the lowest, which is not written.
_levels = st.sampled_from([None, *(one for one in Level if one is not Level.OPEN)])
_lines = st.text(st.characters(exclude_categories=("Cs",), min_codepoint=0x20), max_size=30)


@st.composite
def declared(draw: st.DrawFn, *, texts: bool = True, alike: bool = False, grown: bool = False) -> Declared:
    """One that its file could declare. Those that are `alike` differ in what can be changed only, and the
    disks of one that is `grown` are not smaller than another's."""
    make = _Making(texts=texts, alike=alike, grown=grown)
    providers = {name: draw(make.provider(name)) for name in ("north", "south")}
    blankets = _some(draw, ("n1", "s1", "s2"), make.blanket)
    networks: dict[str, CreateNetwork] = {}
    choices = [(), (("lan", 0),), (("lan", 1), ("dmz", 2)), (("wan", 3),)]
    for name, cidr in draw(st.sampled_from([choices[0], choices[2]] if alike else choices)):
        networks[name] = CreateNetwork(name=name, cloud="mine", cidr=_CIDRS[cidr], level=draw(_levels))
    volumes = _some(draw, ("a", "b", "c", "1e3"), lambda name: make.volume(name, sorted(blankets)))
    instances = {}
    if blankets and (networks or not alike):
        places = sorted(blankets), sorted(networks)
        instances = _some(draw, ("web", "db", "on"), lambda name: make.instance(name, *places))
    attached: dict[str, tuple[str, ...]] = {}
    for name, volume in volumes.items():
        owner = draw(st.sampled_from(["web", "db", None]))
        if owner in instances:
            attached[owner] = (*attached.get(owner, ()), name)
            if volume.on != instances[owner].on:
                volumes[name] = replace(volume, on=None)
    user_data = {}
    if texts:
        user_data = {name: draw(_texts) for name in instances if draw(st.booleans())}
    cloud = draw(make.cloud())
    return Declared(
        providers=providers,
        user_data=user_data,
        quota=cloud.quota,
        wanted=WantedCloud(
            cloud=cloud,
            blankets=tuple(blankets.values()),
            networks=tuple(networks.values()),
            volumes=tuple(volumes.values()),
            instances=tuple(instances.values()),
            attached=attached,
            user_data=tuple(sorted(user_data)),
        ),
    )


def _some(draw: st.DrawFn, names: tuple[str, ...], make: Any) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names)))
    return {name: draw(make(name)) for name in chosen}


def placements() -> st.SearchStrategy[Placement]:
    names = st.lists(st.sampled_from(["shop", "x"]), unique=True, max_size=2).map(tuple)
    return st.just(ANYWHERE) | st.builds(
        Placement,
        domains=st.sampled_from([(), ("north",), ("north", "south")]),
        locations=st.sampled_from([(), ("de", "no")]),  # which YAML may take for something else
        max_cost=st.none() | st.builds(Cost, amount=st.sampled_from(["1", "0.05"]), currency=st.just("EUR")),
        confidentiality=st.sampled_from([None, *Confidentiality]),
        apart_from=names,
        apart_by=st.sampled_from(Apart),
    )


@dataclass(frozen=True, kw_only=True)
class _Making:
    texts: bool
    alike: bool
    grown: bool

    def _fixed(self, *options: Any) -> st.SearchStrategy[Any]:
        return st.just(options[0]) if self.alike else st.sampled_from(options)

    def _size(self, *sizes: int) -> st.SearchStrategy[int]:
        return st.sampled_from(sizes[-1:] if self.grown else sizes)

    def cloud(self) -> st.SearchStrategy[CreateCloud]:
        return st.builds(
            CreateCloud,
            name=st.just("mine"),
            cpu_model=st.sampled_from([None, "Westmere"]),
            right_length_s=self._fixed(60.0, 90.5),
            parent=self._fixed(None, "around"),
            quota=st.sampled_from([UNLIMITED, Quota(vcpus=0, blankets=9), Quota(memory_mib=3, disk_bytes=7)]),
        )

    def provider(self, name: str) -> st.SearchStrategy[AddProvider]:
        options = self._fixed({}, {"first_port": "52000"}, {"accelerator": "true", "path": "a: b"})
        return st.builds(
            AddProvider,
            name=st.just(name),
            kind=self._fixed("qemu", "null"),
            options=(options | st.fixed_dictionaries({"path": _texts})) if self.texts else options,
            location=self._fixed(None, "de-by"),
            price=self._fixed(None, Price(currency="EUR", gib_hour="0.10")),
        )

    def blanket(self, name: str) -> st.SearchStrategy[AddBlanket]:
        return st.builds(
            AddBlanket,
            name=st.just(name),
            cloud=st.just("mine"),
            provider=self._fixed("north", "south"),
            parent=st.none(),
            flavour=self._fixed(*Flavour),
            vcpus=self._fixed(2, 1, 4),
            memory_mib=self._fixed(2048, 1537, 4096),
            disk_bytes=self._fixed(20 << 30, (20 << 30) + 1),
            debug_shell=self._fixed(False, True),
        )

    def volume(self, name: str, blankets: list[str]) -> st.SearchStrategy[CreateVolume]:
        return st.builds(
            CreateVolume,
            name=st.just(name),
            cloud=st.just("mine"),
            size_bytes=self._size(16, 1025, 4096).map(lambda mib: mib * MIB),
            on=st.none() if self.alike else st.sampled_from([None, *blankets]),
            image=self._fixed(None, "debian"),
            level=_levels,
        )

    def instance(self, name: str, blankets: list[str], networks: list[str]) -> st.SearchStrategy[RunInstance]:
        at = {"web": 8080, "db": 8180, "on": 8280}[name]
        ports = (), (Publish(port=80, at=at),), (Publish(port=80), Publish(port=22, at=at + 1))
        levels = st.just(
            {"hold": False, "level": None}
        )  # which goes with every level, and with the lower ones
        levels |= st.fixed_dictionaries({"hold": st.just(False), "level": _levels})
        if not self.alike:
            held = st.sampled_from([None, Level.BASELINE])
            levels |= st.fixed_dictionaries({"hold": st.just(True), "level": held})
        made = st.builds(
            RunInstance,
            name=st.just(name),
            cloud=st.just("mine"),
            image=self._fixed("debian", "alpine"),
            on=st.sampled_from([None, *blankets]),
            memory_mib=self._fixed(512, 640),
            vcpus=self._fixed(1, 2),
            disk_bytes=self._size(64, 1024).map(lambda mib: mib * MIB) | st.none(),
            networks=self._fixed(*(tuple(one) for one in permutations(networks))),
            publish=self._fixed(*reversed(ports)) if networks else st.just(()),
            ssh_keys=st.lists(_lines, max_size=2).map(tuple) if self.texts else st.just(()),
            group=st.sampled_from([None, "shop"]),
            placement=placements(),
        )
        return st.tuples(made, levels).map(lambda both: replace(both[0], **both[1]))
