"""What one entry of the file says of another. Looked for in whatever was read, right or wrong, so that
everything can be said at once: the form of each entry is checked elsewhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from supercloud.cli.declared.models import SECTIONS
from supercloud.cli.declared.tree import Path, Problem, Tree
from supercloud.cli.declared.written import published
from supercloud.cli.declared.wrong import near, quoted
from supercloud.model.errors import InvalidInput
from supercloud.services.rules import boot_volume, check_network

Entries = dict[str, dict[str, Any]]


def check(tree: Tree) -> Iterator[Problem]:
    """What belongs to the cloud has to be in its file, so that a slip of the pen is found here."""
    found = {section: entries(tree.data, section) for section in SECTIONS}
    instances = found["instances"]
    for section, key, into in (
        ("volumes", "blanket", "blankets"),
        ("instances", "blanket", "blankets"),
        ("instances", "networks", "networks"),
        ("instances", "volumes", "volumes"),
        ("trust", "network", "networks"),
        ("trust", "blanket", "blankets"),
    ):
        for path, name in _said(found[section], section, key):
            if name not in found[into]:
                what = f"there is no {into[:-1]} {quoted(name, bare=True)} in this file"
                yield Problem(tree.place(path), what, near(name, found[into]))
    yield from _on_one(tree, found["blankets"])
    yield from _once(tree, _said(instances, "instances", "volumes"), "volume")
    yield from _once(tree, _ports(instances), "port")
    yield from _boot_volumes(tree, instances, found["volumes"])
    yield from _apart(tree, instances, found["volumes"])
    yield from _overlapping(tree, found["networks"])


def entries(data: Any, section: str) -> Entries:
    """Those that are there, each as the mapping that it should be."""
    found = data.get(section) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        return {}
    return {name: one if isinstance(one, dict) else {} for name, one in found.items()}


def _on_one(tree: Tree, blankets: Entries) -> Iterator[Problem]:
    """A blanket's machine is a platform's, or another blanket's."""
    for name, one in blankets.items():
        said = [key for key in ("provider", "in") if one.get(key) is not None]
        if len(said) != 1 and isinstance(tree.data["blankets"][name], dict):
            which = "both `provider` and `in`" if said else "neither `provider` nor `in`"
            what = f"blanket {quoted(name, bare=True)} says {which}"
            yield Problem(tree.key_place(("blankets", name)), what, "say one of them")


def _said(there: Entries, section: str, key: str) -> Iterator[tuple[Path, str]]:
    """Names that stand at `key`, alone or in a list."""
    for name, one in there.items():
        said = one.get(key)
        if isinstance(said, str) and key in {"blanket", "network"}:
            yield (section, name, key), said
        elif isinstance(said, list):
            for index, word in enumerate(said):
                if isinstance(word, str):
                    yield (section, name, key, index), word


def _ports(instances: Entries) -> Iterator[tuple[Path, int]]:
    """Those that are chosen on the control plane's side."""
    for name, one in instances.items():
        said = one.get("publish")
        for index, word in enumerate(said if isinstance(said, list) else ()):
            try:
                at = published(word).at
            except ValueError:
                continue
            if at:
                yield ("instances", name, "publish", index), at


def _once(tree: Tree, said: Iterable[tuple[Path, str | int]], word: str) -> Iterator[Problem]:
    """What only one instance can have."""
    first: dict[str | int, Any] = {}
    for path, one in said:
        if (other := first.setdefault(one, path[1])) != path[1]:
            what = f"instance {quoted(other, bare=True)} has {word} {quoted(one, bare=True)} already"
            yield Problem(tree.place(path), what, "give it to one of them")


def _boot_volumes(tree: Tree, instances: Entries, volumes: Entries) -> Iterator[Problem]:
    for name in instances:
        if (boot := boot_volume(name)) in volumes:
            what = f"{quoted(boot, bare=True)} is what instance {quoted(name, bare=True)} boots from"
            yield Problem(tree.key_place(("volumes", boot)), what, "choose another name")


def _apart(tree: Tree, instances: Entries, volumes: Entries) -> Iterator[Problem]:
    """A volume and an instance that shall have it, in different blankets."""
    for path, volume in _said(instances, "instances", "volumes"):
        there, here = volumes.get(volume, {}).get("blanket"), instances[str(path[1])].get("blanket")
        if isinstance(there, str) and isinstance(here, str) and there != here:
            what = f"volume {quoted(volume, bare=True)} is for blanket {quoted(there, bare=True)}"
            what += f", and its instance for {quoted(here, bare=True)}"
            yield Problem(tree.place(path), what, "leave `blanket` of the volume out")


def _overlapping(tree: Tree, there: Entries) -> Iterator[Problem]:
    """In order of their addresses, each against the one before that reaches furthest."""
    networks: list[tuple[ipaddress.IPv4Network, str]] = []
    for name, one in there.items():
        try:
            networks.append((check_network(str(one.get("cidr"))), name))
        except InvalidInput:
            continue
    furthest: tuple[ipaddress.IPv4Network, str] | None = None
    for network, name in sorted(networks):
        if furthest is not None and furthest[0].overlaps(network):
            what = f"{network} overlaps with {furthest[0]} of network {quoted(furthest[1], bare=True)}"
            yield Problem(tree.place(("networks", name, "cidr")), what, "choose another one")
        else:
            furthest = network, name
