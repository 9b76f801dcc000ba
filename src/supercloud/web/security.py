"""What users have lists and pages of that is about their security: findings, orders, and privileged acts that
providers ask for; and what they do about them.
"""

from __future__ import annotations

import json
from typing import Any

from supercloud.api.pages import TIMED
from supercloud.model.acts import ActState, Statement
from supercloud.model.findings import ObjectKind
from supercloud.model.kinds import Kind as Changed
from supercloud.model.orders import MEANINGS, USUAL_S, OrderState, Protocol, Reaction, command_of
from supercloud.model.permissions import Permission
from supercloud.services.northbound import Northbound
from supercloud.services.requests import Ref
from supercloud.services.security_views import ActView, FindingView, OrderView, PlaceOrder
from supercloud.web import cells
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.deed import Action, Making
from supercloud.web.forms import Field, Form, checked, chosen, counted, maybe, named, number, request_of
from supercloud.web.kind import Facts, Kind, Section
from supercloud.web.kind import named as titled

_P = Permission
#: What its object is called, and where that is shown.
_OBJECTS = {
    ObjectKind.DOMAIN: ("Domain", "providers"),
    ObjectKind.MACHINE: ("Blanket", "blankets"),
    ObjectKind.INSTANCE: ("Instance", "instances"),
}


def written(value: Any) -> Cell:
    """What somebody else's program said, as it is."""
    return cells.code(None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True))


# ---------------------------------------------------------------- findings


def _title(view: FindingView) -> str:
    return view.title


def _about(view: FindingView) -> Cell:
    """Somebody else's thing has no name, and one that is gone no page."""
    if view.object_kind is ObjectKind.DOMAIN:
        return cells.link("providers", view.domain, at=view.domain_id)
    if view.object_name is None:
        return cells.code(view.object)
    return cells.link(_OBJECTS[view.object_kind][1], view.object_name, at=view.object)


def _finding_row(view: FindingView) -> tuple[Cell, ...]:
    return (
        titled("findings", view, view.title),
        cells.state(view.severity),
        cells.text(view.layer),
        cells.link("providers", view.domain, at=view.domain_id),
        _about(view),
        cells.many(view.clouds),
        cells.moment(view.received_at),
    )


def _finding_facts(view: FindingView) -> Facts:
    return [
        ("Severity", cells.state(view.severity)),
        ("Layer", cells.text(view.layer)),
        ("Says who", cells.text(view.source)),
        ("Domain", cells.link("providers", view.domain, at=view.domain_id)),
        (_OBJECTS[view.object_kind][0], _about(view)),
        ("Concerns", cells.many(view.clouds)),
        ("Rule", cells.text(view.rule)),
        ("Seen", cells.moment(view.at)),
        ("Received", cells.moment(view.received_at)),
    ]


async def _evidence(_ask: Ask, view: FindingView) -> list[Section]:
    return [
        Section(
            title="Evidence",
            caption="Evidence, in the detector's words",
            columns=("In the detector's words",),
            rows=[(written(one),) for one in view.evidence],
            nothing="None came with it.",
        )
    ]


# ---------------------------------------------------------------- orders


def _order(view: OrderView) -> str:
    return f"{view.reaction} for {view.blanket or view.blanket_id}"


def _order_row(view: OrderView) -> tuple[Cell, ...]:
    return (
        titled("orders", view, _order(view)),
        cells.state(view.state),
        cells.link("providers", view.domain, at=view.domain_id),
        cells.moment(view.created_at),
        cells.moment(view.deadline),
        cells.moment(view.ended_at),
    )


def _order_facts(view: OrderView) -> Facts:
    return [
        ("State", cells.state(view.state)),
        ("Why", cells.text(view.reason)),
        ("Means", cells.text(view.meaning)),
        ("Domain", cells.link("providers", view.domain, at=view.domain_id)),
        ("Blanket", cells.link("blankets", view.blanket, at=view.blanket_id)),
        ("In the name of cloud", cells.code(view.asked_by)),
        ("By trust relation", cells.link("trust", view.relation)),
        ("Command", written(view.command)),
        ("Its provider said", written(view.response)),
        ("Ordered", cells.moment(view.created_at)),
        ("To be done by", cells.moment(view.deadline)),
        ("Taken", cells.moment(view.taken_at)),
        ("Ended", cells.moment(view.ended_at)),
    ]


async def _order_fields(ask: Ask, cloud: Ref) -> tuple[Field, ...]:
    blankets = await ask.some(_P.BLANKET_READ, lambda control: control.blankets(cloud=cloud))
    of_net, of_connection = "of ipv4_net: 198.51.100.0/24", "of ipv4_connection: ADDRESS[:PORT]"
    return (
        chosen("blanket", "For the machine of blanket", named(blankets), required=True),
        chosen("reaction", "Order", [(one, f"{one}: {MEANINGS[one]}") for one in Reaction]),
        Field(name="net", label="Addresses", hint=of_net),
        chosen("protocol", "Protocol", [("", "any"), *((one, one) for one in Protocol)]),
        Field(name="source", label="Coming from", hint=of_connection),
        Field(name="destination", label="Going to", hint=of_connection),
        counted("lasts_min", "Take it back after, minutes", least=1, hint="it stays, if this is left out"),
        counted("within_min", "To be done within, minutes", least=1, value=f"{USUAL_S / 60:.0f}"),
    )


async def _place(control: Northbound, form: Form) -> OrderView:
    protocol, lasts, within = maybe(form, "protocol"), number(form, "lasts_min"), number(form, "within_min")
    command = command_of(
        checked(Reaction, maybe(form, "reaction"), "order"),
        net=maybe(form, "net"),
        protocol=None if protocol is None else checked(Protocol, protocol, "protocol"),
        source=maybe(form, "source"),
        to=maybe(form, "destination"),
        duration_s=None if lasts is None else lasts * 60.0,
    )
    asked = {
        "blanket": maybe(form, "blanket"),
        "cloud": maybe(form, "cloud"),
        "command": command,
        "lasts_s": None if within is None else within * 60.0,
    }
    return await control.place_order(request_of(PlaceOrder, asked))


# ---------------------------------------------------------------- privileged acts


def _act(view: ActView) -> str:
    return f"{view.statement.operation} of {view.blanket or view.statement.object}"


def _act_row(view: ActView) -> tuple[Cell, ...]:
    return (
        titled("acts", view, _act(view)),
        cells.state(view.state),
        cells.text(view.domain),
        cells.link("clouds", view.cloud, at=view.cloud_id),
        cells.text(view.statement.purpose),
        cells.moment(view.statement.not_before),
        cells.moment(view.statement.expires_at),
    )


#: How an act is granted, and what that is worth.
_ENFORCED = "a consent of the owner's key store (supercloud act grant), which the platform's monitor checks"
_PROCEDURAL = "a word (supercloud act grant): procedural only, since nothing below the provider enforces it"


def _pages(statement: Statement) -> str:
    if statement.page is None or statement.pages is None:
        return ""
    return f"{statement.page} to {statement.page + statement.pages - 1}"


def act_facts(view: Any) -> Facts:
    """Of one, to whoever reads it: what is asked for exactly."""
    statement = view.statement
    return [
        ("State", cells.state(view.state)),
        ("Asked by domain", cells.text(view.domain)),
        ("Act", cells.text(statement.operation)),
        ("Machine", cells.code(statement.object)),
        ("Purpose, as they say", cells.text(statement.purpose)),
        ("Pages of 4 KiB", cells.text(_pages(statement))),
        ("SHA-256 of its other arguments", cells.code(statement.arguments)),
        ("Answered by", cells.text(_ENFORCED if view.enforced else _PROCEDURAL)),
        ("Why it failed", cells.text(view.reason)),
        ("Not before", cells.moment(statement.not_before)),
        ("Expires", cells.moment(statement.expires_at)),
        ("Asked", cells.moment(view.created_at)),
        ("Ended", cells.moment(view.ended_at)),
    ]


def _own_act_facts(view: ActView) -> Facts:
    return [
        *act_facts(view),
        ("Blanket", cells.link("blankets", view.blanket, at=view.statement.object)),
        ("Cloud", cells.link("clouds", view.cloud, at=view.cloud_id)),
    ]


SECURITY_KINDS = (
    Kind(
        path="findings",
        one="finding",
        title="Findings",
        read=_P.FINDING_READ,
        key=TIMED,
        watched=(Changed.FINDING,),
        columns=("Finding", "Severity", "Layer", "Domain", "About", "Concerns", "Received"),
        listed=lambda control, cloud, page: control.findings(cloud=cloud, page=page),
        shown=lambda control, ref, _: control.finding(ref),
        row=_finding_row,
        facts=_finding_facts,
        sections=_evidence,
        called=_title,
    ),
    Kind(
        path="orders",
        one="order",
        title="Orders",
        read=_P.ORDER_READ,
        key=TIMED,
        watched=(Changed.ORDER,),
        columns=("Order", "State", "Domain", "Ordered", "To be done by", "Ended"),
        listed=lambda control, cloud, page: control.orders(cloud=cloud, page=page),
        shown=lambda control, ref, _: control.order(ref),
        row=_order_row,
        facts=_order_facts,
        called=_order,
    ),
    Kind(
        path="acts",
        one="privileged act",
        title="Acts",
        read=_P.ACT_READ,
        key=TIMED,
        watched=(Changed.ACT,),
        columns=("Act", "State", "Asked by domain", "Cloud", "Purpose, as they say", "Not before", "Expires"),
        listed=lambda control, cloud, page: control.acts(cloud=cloud, page=page),
        shown=lambda control, ref, _: control.act(ref),
        row=_act_row,
        facts=_own_act_facts,
        called=_act,
    ),
)
#: Of acts, by their users.
_REFUSABLE = frozenset({ActState.ASKED, ActState.GRANTED, ActState.TAKEN})
SECURITY_ACTIONS = (
    Action("orders", "cancel", "Cancel", _P.ORDER_WRITE, lambda control, ref, _: control.cancel_order(ref),
        when=lambda view: view.state is OrderState.ASKED),
    Action("acts", "refuse", "Refuse", _P.ACT_DECIDE, lambda control, ref, _: control.refuse_act(ref),
        when=lambda view: view.state in _REFUSABLE),
)  # fmt: skip
SECURITY_MAKINGS = (
    Making("orders", "Order something of a provider", "Order", _P.ORDER_WRITE, _place, _order_fields),
)
