"""Trust relations, drawn: each cloud with what it grants, and below that what was made from it. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from supercloud.cli.times import moment

Relation = Mapping[str, Any]  # services.northbound.TrustView


def as_text(relations: Sequence[Relation]) -> str:
    """A tree for each cloud that grants something which was not granted to it."""
    below = defaultdict[str | None, list[Relation]](list)
    known = {one["id"] for one in relations}
    for one in sorted(relations, key=lambda one: (one["cloud"], what(one), one["to"], one["id"])):
        below[one["parent"] if one["parent"] in known else None].append(one)
    by_cloud = defaultdict[str, list[Relation]](list)
    for one in below[None]:
        by_cloud[one["cloud_id"]].append(one)
    lines = list[str]()
    for roots in by_cloud.values():
        lines += [roots[0]["cloud"], *_branches(roots, below, "")]
    return "".join(f"{line}\n" for line in lines)


def what(one: Relation) -> str:
    """What it lets."""
    which = f" ({' '.join(one['reactions'])})" if one.get("reactions") else ""
    return f"{one['kind']} {one['thing']}{which}"


def _branches(
    relations: Sequence[Relation], below: Mapping[str | None, list[Relation]], indent: str
) -> Iterator[str]:
    for number, one in enumerate(relations, 1):
        last = number == len(relations)
        yield f"{indent}{'└─' if last else '├─'} {what(one)} → {_whom(one)}, {_terms(one)}"
        yield from _branches(below.get(one["id"], []), below, indent + ("   " if last else "│  "))


def as_dot(relations: Sequence[Relation]) -> str:
    """For Graphviz: clouds are its nodes, by their ids; relations its edges."""
    clouds = {one[f"{end}_id"]: one[end] for one in relations for end in ("cloud", "to")}
    lines = ["digraph trust {"]
    lines += [f"  {_quoted(identity)} [label={_quoted(name)}];" for identity, name in sorted(clouds.items())]
    for one in relations:
        label = _quoted(f"{what(one)}{_from(one)}\n{_terms(one)}")
        lines.append(f"  {_quoted(one['cloud_id'])} -> {_quoted(one['to_id'])} [label={label}];")
    return "".join(f"{line}\n" for line in (*lines, "}"))


def _whom(one: Relation) -> str:
    """Of whom only one network is trusted, that is said."""
    network = one.get("to_network")
    return f"{one['to']}/{network['name']}" if network else str(one["to"])


def _from(one: Relation) -> str:
    network = one.get("to_network")
    return f" from {network['name']}" if network else ""


def _terms(one: Relation) -> str:
    said = f"until {moment(one['expires_at'])}" if one["state"] == "active" else str(one["state"])
    if one.get("closed"):
        said += f", closed: {one['closed']}"
    return f"{said}, may be passed on" if one["delegable"] else said


def _quoted(text: str) -> str:
    """DOT's strings, with what escapes JSON's have beyond them nowhere in a name."""
    return json.dumps(text, ensure_ascii=False)
