"""Users' things as pages show them: the row of each in a list, and the facts on its page."""

from __future__ import annotations

from typing import Any

from supercloud.model.names import MIB
from supercloud.model.trust import THINGS, TrustState
from supercloud.web import cells
from supercloud.web.cells import Cell
from supercloud.web.grid import href, standing, up_to
from supercloud.web.kind import Facts, named


def cloud_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("clouds", view),
        cells.text(view.owner),
        cells.link("clouds", view.parent),
        cells.number(view.blankets),
        cells.number(view.instances),
    )


def cloud_facts(view: Any) -> Facts:
    return [
        ("Owner", cells.text(view.owner or "nobody, so the operators")),
        ("Within", cells.link("clouds", view.parent)),
        ("Blankets", cells.number(view.blankets)),
        ("Instances", cells.number(view.instances)),
        *cells.shares("taken", view.used, view.quota),
        ("CPU model", cells.code(view.cpu_model)),
        ("Run rights last", cells.seconds(view.right_length_s)),
        ("Their margin", cells.seconds(view.right_margin_s)),
        ("Paused for", cells.seconds(view.right_grace_s)),
    ]


def provider_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("providers", view),
        cells.text(view.kind),
        cells.text(view.accelerator),
        cells.text(view.location),
        cells.text(view.confidentiality),
        cells.text(up_to(view.gives)),
        cells.toned(*standing(view)),
        cells.number(view.blankets),
    )


def provider_facts(view: Any) -> Facts:
    options = ", ".join(f"{key}={value}" for key, value in sorted(view.options.items()))
    return [
        ("Platform", cells.text(view.kind)),
        ("Accelerator", cells.text(view.accelerator)),
        ("Nesting", cells.yes(view.nesting)),
        ("State", cells.toned(*standing(view))),
        ("Confidentiality", cells.text(view.confidentiality)),
        ("Security level", cells.text(up_to(view.gives))),
        ("Location", cells.text(view.location)),
        ("Price", cells.price(view.price)),
        ("Blankets", cells.number(view.blankets)),
        ("Abilities", cells.many(view.abilities)),
        ("Takes orders", cells.many(view.takes)),
        ("Options", cells.code(options)),
        ("Why", cells.text(view.reason)),
        *(("May be down", _window(one)) for one in view.maintenance),
    ]


def _window(view: Any) -> Cell:
    away = "what runs there moves away" if view.drains else "what runs there stays"
    said = f"{cells.said(view.begins_at)} to {cells.said(view.ends_at)}, {away}"
    return Cell(text=f"{said}: {view.reason}" if view.reason else said)


def blanket_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("blankets", view),
        cells.link("clouds", view.cloud, at=view.cloud_id),
        cells.link("providers", view.provider),
        cells.state(view.state),
        cells.text(view.flavour),
        cells.text(up_to(view.gives)),
        cells.number(view.instances),
    )


def blanket_facts(view: Any) -> Facts:
    return [
        ("State", cells.state(view.state)),
        ("Why", cells.text(view.reason)),
        ("Cloud", cells.link("clouds", view.cloud, at=view.cloud_id)),
        ("Provider", cells.link("providers", view.provider)),
        ("In blanket", cells.text(view.parent)),
        ("Blankets around it", cells.number(view.depth)),
        ("Levels of blankets that fit in it", cells.number(view.deeper)),
        ("Flavour", cells.text(view.flavour)),
        ("Agent connected", cells.yes(view.connected)),
        ("Agent's version", cells.code(view.agent_version)),
        ("Address in the mesh", cells.code(view.mesh_address)),
        ("Confidentiality", cells.text(view.confidentiality)),
        ("Security level", cells.text(up_to(view.gives))),
        ("Libvirt tools let in", cells.yes(view.tools)),
        ("Instances", cells.number(view.instances)),
    ]


def image_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("images", view),
        cells.size(view.virtual_bytes),
        cells.size(view.size_bytes),
        cells.yes(view.complete),
    )


def image_facts(view: Any) -> Facts:
    return [
        ("Complete", cells.yes(view.complete)),
        ("Here", cells.size(view.present_bytes)),
        ("Encrypted file", cells.size(view.size_bytes)),
        ("As guests see it", cells.size(view.virtual_bytes)),
        ("Digest", cells.code(view.digest)),
    ]


def network_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("networks", view),
        cells.link("clouds", view.cloud, at=view.cloud_id),
        cells.code(view.cidr),
        cells.text(view.level),
        cells.number(view.instances),
    )


def network_facts(view: Any) -> Facts:
    return [
        ("Cloud", cells.link("clouds", view.cloud, at=view.cloud_id)),
        ("Security level", cells.text(view.level)),
        ("Addresses", cells.code(view.cidr)),
        ("Gateway", cells.code(view.gateway)),
        ("VXLAN", cells.number(view.vni)),
        ("Instances", cells.number(view.instances)),
        ("Reached from", cells.many(_of_link(each) for each in view.links if each.inward)),
        ("Reaches", cells.many(_of_link(each) for each in view.links if not each.inward)),
    ]


def _of_link(link: Any) -> str:
    closed = f", closed: {link.closed}" if link.closed else ""
    return f"{link.cloud}/{link.network} ({link.cidr}{closed})"


def volume_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("volumes", view),
        cells.link("clouds", view.cloud, at=view.cloud_id),
        cells.size(view.size_bytes),
        cells.text(view.level),
        cells.link("instances", view.instance, cloud=view.cloud_id),
        cells.link("blankets", view.blanket, cloud=view.cloud_id),
    )


def volume_facts(view: Any) -> Facts:
    return [
        ("Cloud", cells.link("clouds", view.cloud, at=view.cloud_id)),
        ("Lost", cells.text(view.lost)),
        ("Security level", cells.text(view.level)),
        ("Size", cells.size(view.size_bytes)),
        ("Began with", cells.link("images", view.image)),
        ("Instance", cells.link("instances", view.instance, cloud=view.cloud_id)),
        ("Blanket", cells.link("blankets", view.blanket, cloud=view.cloud_id)),
    ]


def instance_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("instances", view),
        cells.link("clouds", view.cloud, at=view.cloud_id),
        cells.state(view.state),
        cells.text(view.level),
        cells.link("blankets", view.blanket, at=view.blanket_id),
        cells.code(", ".join(view.addresses)),
        cells.text(view.group),
    )


def instance_facts(view: Any) -> Facts:
    return [
        ("State", cells.state(view.state)),
        ("Why", cells.text(view.reason)),
        ("Security level", cells.text(view.level)),
        ("Cloud", cells.link("clouds", view.cloud, at=view.cloud_id)),
        ("Blanket", cells.link("blankets", view.blanket, at=view.blanket_id)),
        ("Placed there", cells.text(view.placed)),
        ("Placement", cells.placement(view.placement)),
        ("Group", cells.text(view.group)),
        ("Epoch", cells.number(view.epoch)),
        ("While nobody is reached", cells.text("runs on" if view.hold else "is paused")),
        ("vCPUs", cells.number(view.vcpus)),
        ("Memory", cells.size(view.memory_mib * MIB)),
        ("Image", cells.link("images", view.image)),
        ("Addresses", cells.code(", ".join(view.addresses))),
        ("MACs", cells.code(", ".join(view.macs))),
        ("Networks", cells.many(view.networks)),
        ("Volumes", cells.many(view.volumes)),
        ("Published", cells.code(", ".join(view.published))),
        ("Made", cells.moment(view.created_at)),
    ]


def _progress(view: Any) -> Cell:
    open_ = view.ended_at is None
    return Cell(text=view.phase or "–", done=view.done if open_ else None)  # noqa: RUF001 - a dash


def operation_row(view: Any) -> tuple[Cell, ...]:
    """Of lists and histories."""
    return (
        Cell(text=view.kind, href=href("operations", view.id)),
        cells.text(view.object_name),
        cells.state(view.state),
        _progress(view),
        cells.moment(view.created_at),
        cells.moment(view.ended_at),
    )


def operation(view: Any) -> str:
    return f"{view.kind} of {view.object_name}"


def operation_facts(view: Any) -> Facts:
    collection = _OBJECTS.get(view.kind.partition(".")[0])
    about = Cell(text=view.object_name, href=href(collection, view.object) if collection else None)
    took = None if view.ended_at is None else view.ended_at - view.created_at
    error = view.error or {}
    return [
        ("State", cells.state(view.state)),
        ("About", about),
        ("Phase", _progress(view)),
        ("Error", cells.text(error.get("message"))),
        ("What to do", cells.text(error.get("hint"))),
        ("Result", cells.counts(view.result)),
        ("Part of", cells.link("operations", view.parent)),
        ("Began", cells.moment(view.created_at)),
        ("Ended", cells.moment(view.ended_at)),
        ("Took", cells.seconds(took)),
    ]


def relation(view: Any) -> str:
    begins = "" if view.to_network is None else f" from {view.to_network.name}"
    return f"{view.cloud} trusts {view.to}: {view.kind} {view.thing}{begins}"


def trust_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("trust", view, relation(view)),
        cells.state(view.state),
        cells.yes(view.delegable),
        cells.moment(view.expires_at),
    )


def trust_facts(view: Any) -> Facts:
    waits = view.needs_approval and view.state is TrustState.ACTIVE
    approve = f"supercloud trust approve {view.id}" if waits else None
    return [
        ("State", cells.state(view.state)),
        ("Lets", cells.text(view.kind)),
        ("Granted by", cells.text(view.cloud)),
        ("Id of that cloud", cells.code(view.cloud_id)),
        ("Trusted", cells.text(view.to)),
        ("Id of the trusted one", cells.code(view.to_id)),
        (THINGS[view.kind].capitalize(), cells.text(view.thing)),
        ("Reactions", cells.many(view.reactions)),
        ("Digest", cells.code(view.digest)),
        ("Its addresses", cells.code(view.network and view.network.cidr)),
        ("From network", cells.text(view.to_network and view.to_network.name)),
        ("Of addresses", cells.code(view.to_network and view.to_network.cidr)),
        ("Id of the blanket", cells.code(view.blanket)),
        ("The trusted one's in it", cells.code(" ".join(view.guests))),
        ("Closed because", cells.text(view.closed)),
        ("May be passed on", cells.yes(view.delegable)),
        ("Made from", cells.link("trust", view.parent)),
        ("Its key is let out by", cells.code(approve)),
        ("Granted", cells.moment(view.created_at)),
        ("Ends", cells.moment(view.expires_at)),
        ("Revoked", cells.moment(view.revoked_at)),
    ]


#: What an operation's kind begins with -> where its object is shown.
_OBJECTS = {
    "instance": "instances",
    "blanket": "blankets",
    "volume": "volumes",
    "cloud": "clouds",
    "provider": "providers",
}
