"""What providers have lists and pages of that is about security: what they are ordered, what they found, and
the privileged acts that they ask for. As `web.domains`, without a word that a user chose.
"""

from __future__ import annotations

from typing import Any

from supercloud.model.acts import MOST_PAGES, ActKind, ActState
from supercloud.model.kinds import Kind as Changed
from supercloud.model.orders import OPEN, OrderState, Reaction
from supercloud.model.permissions import Permission
from supercloud.services.northbound import Northbound
from supercloud.services.requests import Ref
from supercloud.services.security_views import (
    AskAct,
    AskedActView,
    CommandView,
    DeliveredView,
    Response,
    TakenOrders,
)
from supercloud.web import cells
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.deed import Action, Making, fixed
from supercloud.web.forms import Field, Form, chosen, counted, maybe, moment, number, request_of
from supercloud.web.kind import DomainKind, Facts, named
from supercloud.web.security import act_facts, written

_P = Permission


# ---------------------------------------------------------------- what is shown


def _command(view: CommandView) -> str:
    target = next(iter(view.command["target"]))
    return f"{view.command['action']}:{target}"


def _command_row(view: CommandView) -> tuple[Cell, ...]:
    return (
        named("commands", view, _command(view)),
        cells.state(view.state),
        cells.link("domains", view.domain),
        cells.code(view.machine),
        cells.moment(view.created_at),
        cells.moment(view.deadline),
    )


def _command_facts(view: CommandView) -> Facts:
    return [
        ("State", cells.state(view.state)),
        ("Means", cells.text(view.meaning)),
        ("Domain", cells.link("domains", view.domain)),
        ("Machine", cells.code(view.machine)),
        ("Command", written(view.command)),
        ("You said", written(view.response)),
        ("Ordered", cells.moment(view.created_at)),
        ("To be done by", cells.moment(view.deadline)),
        ("Ended", cells.moment(view.ended_at)),
    ]


def _delivered(view: DeliveredView) -> str:
    return view.title


def _delivered_row(view: DeliveredView) -> tuple[Cell, ...]:
    return (
        named("delivered", view, view.title),
        cells.state(view.severity),
        cells.link("domains", view.domain, at=view.domain_id),
        cells.code(view.machine),
        cells.moment(view.received_at),
    )


def _delivered_facts(view: DeliveredView) -> Facts:
    return [
        ("Severity", cells.state(view.severity)),
        ("Domain", cells.link("domains", view.domain, at=view.domain_id)),
        ("Machine", cells.code(view.machine)),
        ("Rule", cells.text(view.rule)),
        ("Event", cells.code(view.uid)),
        ("Seen", cells.moment(view.at)),
        ("Received", cells.moment(view.received_at)),
    ]


def _asked(view: AskedActView) -> str:
    return f"{view.statement.operation} of {view.statement.object}"


def _asked_row(view: AskedActView) -> tuple[Cell, ...]:
    return (
        named("asked", view, _asked(view)),
        cells.state(view.state),
        cells.link("domains", view.domain),
        cells.text(view.statement.purpose),
        cells.moment(view.statement.not_before),
        cells.moment(view.statement.expires_at),
    )


DOMAIN_SECURITY_KINDS = (
    DomainKind(
        path="commands",
        one="command",
        title="Commands",
        watched=(Changed.ORDER,),
        columns=("Command", "State", "Domain", "Machine", "Ordered", "To be done by"),
        listed=lambda control, _, page: control.southbound().commands(every=True, page=page),
        shown=lambda control, ref, _: control.southbound().command(ref),
        row=_command_row,
        facts=_command_facts,
        called=_command,
    ),
    DomainKind(
        path="delivered",
        one="delivered finding",
        title="Delivered",
        watched=(Changed.FINDING,),
        columns=("Finding", "Severity", "Domain", "Machine", "Received"),
        listed=lambda control, _, page: control.southbound().delivered(page=page),
        shown=lambda control, ref, _: control.southbound().delivered_one(ref),
        row=_delivered_row,
        facts=_delivered_facts,
        called=_delivered,
    ),
    DomainKind(
        path="asked",
        one="act that you asked for",
        title="Asked acts",
        watched=(Changed.ACT,),
        columns=("Act", "State", "Domain", "Purpose", "Not before", "Expires"),
        listed=lambda control, _, page: control.southbound().asked_acts(page=page),
        shown=lambda control, ref, _: control.southbound().asked_act(ref),
        row=_asked_row,
        facts=act_facts,
        called=_asked,
    ),
)


# ---------------------------------------------------------------- what is done

#: OpenC2 1.0, 3.3.2: what a provider says most, as its users read it.
_TAKEN = (102, "I am at it")
_ENDS = ((200, "it is done"), (403, "I refuse"), (501, "I cannot do that"), (500, "it failed"))


async def _answer_fields(_ask: Ask, view: CommandView) -> tuple[Field, ...]:
    possible = (_TAKEN, *_ENDS) if view.state is OrderState.ASKED else _ENDS
    return (
        chosen("status", "Say", [(str(status), said) for status, said in possible], required=True),
        Field(name="status_text", label="In your words", hint="its user reads them"),
    )


async def _answer(control: Northbound, ref: Ref, form: Form) -> object:
    said = {"status": number(form, "status"), "status_text": maybe(form, "status_text")}
    return await control.southbound().respond(ref, request_of(Response, said))


async def _take_fields(_ask: Ask, view: Any) -> tuple[Field, ...]:
    return (
        Field(
            name="takes",
            label="Orders that you carry out",
            kind="several",
            choices=tuple((one, one) for one in Reaction),
            value=" ".join(view.takes),
        ),
    )


async def _take(control: Northbound, ref: Ref, form: Form) -> object:
    taken = request_of(TakenOrders, {"takes": form.get("takes", ())})
    return await control.southbound().take_orders(ref, taken)


_ACT = fixed(
    Field(name="machine", label="Machine", required=True, hint="by its id"),
    chosen("operation", "Act", [(one, one) for one in ActKind]),
    counted("page", "First page, of 4 KiB", hint="of a dump or an introspection"),
    counted("pages", "How many pages", least=1, most=MOST_PAGES),
    Field(name="arguments", label="Digest of its other arguments", hint="sha256:…"),
    Field(name="purpose", label="Purpose", required=True, hint="its user reads it"),
    Field(name="not_before", label="Not before, in UTC", kind="datetime-local", required=True),
    Field(name="expires_at", label="Expires, in UTC", kind="datetime-local", required=True),
)


async def _ask_act(control: Northbound, form: Form) -> AskedActView:
    moments = {name: moment(form, name) for name in ("not_before", "expires_at")}
    arguments = maybe(form, "arguments")
    asked = {
        **{name: maybe(form, name) for name in ("operation", "machine", "purpose")},
        **{name: number(form, name) for name in ("page", "pages")},
        **({} if arguments is None else {"arguments": arguments}),
        **{name: None if at is None else int(at) for name, at in moments.items()},
    }
    return await control.southbound().ask_act(request_of(AskAct, asked))


DOMAIN_SECURITY_ACTIONS = (
    Action("domains", "take", "Take orders", _P.DOMAIN_WRITE, _take, fields=_take_fields),
    Action("commands", "answer", "Answer", _P.DOMAIN_ANSWER, _answer,
        when=lambda view: view.state in OPEN, fields=_answer_fields),
    Action("asked", "withdraw", "Withdraw", _P.DOMAIN_ASK,
        lambda control, ref, _: control.southbound().withdraw_act(ref),
        when=lambda view: view.state in {ActState.ASKED, ActState.GRANTED}),
)  # fmt: skip
DOMAIN_SECURITY_MAKINGS = (
    Making("asked", "Ask for a privileged act", "Ask", _P.DOMAIN_ASK, _ask_act, _ACT, in_cloud=False),
)
