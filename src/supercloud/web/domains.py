"""What providers have lists and pages of, and what they do there: over the southbound API's values alone,
which have no place for a word that a user chose.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from supercloud.api.pages import MOST, TEXT
from supercloud.model.domains import Capacity, WindowState
from supercloud.model.errors import InvalidInput
from supercloud.model.kinds import Kind as Changed
from supercloud.model.names import MIB
from supercloud.model.permissions import Permission
from supercloud.model.placement import Price
from supercloud.services.northbound import Northbound
from supercloud.services.pages import Page, Part
from supercloud.services.requests import Ref
from supercloud.services.southbound import (
    DomainTerms,
    DomainView,
    MachineView,
    PlanWindow,
    RegisterDomain,
    Southbound,
)
from supercloud.web import cells
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.deed import Action, Making, fixed
from supercloud.web.domain_security import (
    DOMAIN_SECURITY_ACTIONS,
    DOMAIN_SECURITY_KINDS,
    DOMAIN_SECURITY_MAKINGS,
)
from supercloud.web.forms import Field, Form, counted, lines, maybe, moment, number, request_of, written
from supercloud.web.grid import Grid, domain_grid_of, standing
from supercloud.web.kind import Beside, DomainKind, Facts, Section, named

#: Of a domain's machines, and of its windows and drains.
_MACHINES, _HISTORY = Page(limit=MOST), 20
_READ, _WRITE = Permission.DOMAIN_READ, Permission.DOMAIN_WRITE
#: What a provider is told of that changes anything on its pages.
CHANGES = (Changed.PROVIDER, Changed.BLANKET, Changed.OPERATION, Changed.MAINTENANCE)


async def _some(ask: Ask, what: Callable[[Southbound], Awaitable[Part[Any]]]) -> Part[Any]:
    return await ask.some(_READ, lambda control: what(control.southbound()))


# ---------------------------------------------------------------- what is shown


def _domain_row(view: DomainView) -> tuple[Cell, ...]:
    return (
        named("domains", view),
        cells.text(view.kind),
        cells.toned(*standing(view)),
        cells.text(view.location),
        cells.price(view.price),
        *(cell for _, cell in cells.shares("rented", view.rented, view.capacity)),
    )


def _domain_facts(view: DomainView) -> Facts:
    options = ", ".join(f"{key}={value}" for key, value in sorted(view.options.items()))
    return [
        ("State", cells.toned(*standing(view))),
        ("Why", cells.text(view.reason)),
        ("Platform", cells.text(view.kind)),
        ("Accelerator", cells.text(view.accelerator)),
        ("Nesting", cells.yes(view.nesting)),
        ("Confidentiality", cells.text(view.confidentiality)),
        ("Location", cells.text(view.location)),
        ("Price", cells.price(view.price)),
        *cells.shares("rented", view.rented, view.capacity),
        ("Abilities", cells.many(view.abilities)),
        ("Takes orders", cells.many(view.takes)),
        ("Options", cells.code(options)),
        ("Registered", cells.moment(view.created_at)),
    ]


async def _of_domain(ask: Ask, view: DomainView) -> list[Section]:
    machines = await _some(ask, lambda south: south.machines(view.id, page=_MACHINES))
    drains = await _some(ask, lambda south: south.drains())
    windows = await _some(ask, lambda south: south.windows(domain=view.id))
    return [
        _machines(machines),
        _windows(windows),
        _drains([one for one in drains if one.domain_id == view.id]),
    ]


def _machines(found: Part[MachineView]) -> Section:
    return Section(
        title="Machines",
        caption="Machines that are rented, by their ids on the platform",
        columns=("Machine", "State", "Agent connected", "In use", "vCPUs", "Memory", "Disk", "Since"),
        rows=[
            (
                cells.code(one.id),
                cells.state(one.state),
                cells.yes(one.connected),
                cells.yes(one.in_use),
                cells.number(one.vcpus),
                cells.size(one.memory_mib * MIB),
                cells.size(one.disk_bytes),
                cells.moment(one.created_at),
            )
            for one in found
        ],
        nothing="Nobody rents a machine there.",
        more=found.after is not None,
    )


_WINDOW_COLUMNS = ("Window", "Domain", "State", "Ends", "Empties the domain", "Reason")
_DRAIN_COLUMNS = ("Drain", "State", "Done", "Machines in use", "Began", "Ended")


def _windows(found: list[Any], title: str = "Maintenance") -> Section:
    return Section(
        title=title,
        caption="Windows of maintenance, the last to begin first",
        columns=_WINDOW_COLUMNS,
        rows=[_window_row(one) for one in found[:_HISTORY]],
        nothing="None is planned.",
        more=len(found) > _HISTORY,
    )


def _drains(found: list[Any], title: str = "History") -> Section:
    return Section(
        title=title,
        caption="Drains, the newest first",
        columns=_DRAIN_COLUMNS,
        rows=[_drain_row(one) for one in found[:_HISTORY]],
        nothing="It was never drained." if title == "History" else "Nothing is under way.",
        more=len(found) > _HISTORY,
    )


def _window(view: Any) -> str:
    return cells.said(view.begins_at)


def _ahead(view: Any) -> Cell:
    if view.drain_ahead_s is None:
        return Cell(text="no")
    return Cell(text=f"{view.drain_ahead_s / 60:.0f} min ahead")


def _window_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("windows", view, _window(view)),
        cells.link("domains", view.domain),
        cells.state(view.state),
        cells.moment(view.ends_at),
        _ahead(view),
        cells.text(view.reason),
    )


def _window_facts(view: Any) -> Facts:
    return [
        ("Domain", cells.link("domains", view.domain)),
        ("State", cells.state(view.state)),
        ("Begins", cells.moment(view.begins_at)),
        ("Ends", cells.moment(view.ends_at)),
        ("Empties the domain", _ahead(view)),
        ("Reason", cells.text(view.reason)),
        ("Planned", cells.moment(view.created_at)),
    ]


def _drain(view: Any) -> str:
    return f"drain of {view.domain}"


def _done(view: Any) -> Cell:
    if view.done is None:
        return cells.NOTHING
    return Cell(text=f"{100 * view.done:.0f} %", done=view.done if view.ended_at is None else None)


def _drain_row(view: Any) -> tuple[Cell, ...]:
    return (
        named("drains", view, _drain(view)),
        cells.state(view.state),
        _done(view),
        cells.number(view.in_use),
        cells.moment(view.created_at),
        cells.moment(view.ended_at),
    )


def _drain_facts(view: Any) -> Facts:
    return [
        ("Domain", cells.link("domains", view.domain, at=view.domain_id)),
        ("State", cells.state(view.state)),
        ("Done", _done(view)),
        ("Machines in use", cells.number(view.in_use)),
        ("Error", cells.text(view.error)),
        ("Began", cells.moment(view.created_at)),
        ("Ended", cells.moment(view.ended_at)),
    ]


DOMAIN_KINDS = (
    DomainKind(
        path="domains",
        one="domain",
        title="Domains",
        key=TEXT,
        watched=CHANGES,
        columns=("Name", "Platform", "State", "Location", "Price", "Machines", "vCPUs", "Memory"),
        listed=lambda control, _, page: control.southbound().domains(page=page),
        shown=lambda control, ref, _: control.southbound().domain(ref),
        row=_domain_row,
        facts=_domain_facts,
        sections=_of_domain,
        beside=(Beside("health", "Health", _READ),),
    ),
    DomainKind(
        path="windows",
        one="window of maintenance",
        title="Maintenance",
        watched=(Changed.MAINTENANCE,),
        columns=_WINDOW_COLUMNS,
        listed=lambda control, _, page: control.southbound().windows(page=page),
        shown=lambda control, ref, _: control.southbound().window(ref),
        row=_window_row,
        facts=_window_facts,
        called=_window,
    ),
    DomainKind(
        path="drains",
        one="drain",
        title="Drains",
        watched=(Changed.OPERATION,),
        columns=_DRAIN_COLUMNS,
        listed=lambda control, _, page: control.southbound().drains(page=page),
        shown=lambda control, ref, _: control.southbound().drain(ref),
        row=_drain_row,
        facts=_drain_facts,
        called=_drain,
    ),
    *DOMAIN_SECURITY_KINDS,
)


async def own_grid(ask: Ask) -> tuple[Grid, bool]:
    """A provider's domains with their machines. Whether there is more than is drawn."""
    domains = await _some(ask, lambda south: south.domains(page=_MACHINES))
    machines: dict[Ref, Part[MachineView]] = {}
    for one in domains:
        machines[one.id] = await _machines_of(ask, one.id)
    more = any(found.after is not None for found in (domains, *machines.values()))
    return domain_grid_of(domains, machines), more


async def _machines_of(ask: Ask, domain: Ref) -> Part[MachineView]:
    return await _some(ask, lambda south: south.machines(domain, page=_MACHINES))


async def own_sections(ask: Ask) -> list[Section]:
    """Below it: what is going on, and what is to come."""
    drains = await _some(ask, lambda south: south.drains())
    windows = await _some(ask, lambda south: south.windows())
    return [
        _drains([one for one in drains if one.ended_at is None], "Under way"),
        _windows([one for one in windows if one.state is not WindowState.OVER]),
    ]


# ---------------------------------------------------------------- what is done


async def _terms_fields(_ask: Ask, view: DomainView | None) -> tuple[Field, ...]:
    """`view`: what is said so far."""
    price = view.price if view else None
    capacity = view.capacity if view else Capacity()
    limits = {
        "machines": "Machines, at most",
        "vcpus": "vCPUs, at most",
        "memory_mib": "Memory at most, MiB",
    }
    return (
        Field(
            name="location",
            label="Location",
            value=(view.location if view else None) or "",
            hint="from the large to the small: de-by",
        ),
        Field(name="vcpu_hour", label="Price of a vCPU's hour", value=price.vcpu_hour if price else ""),
        Field(name="gib_hour", label="Price of a GiB's hour", value=price.gib_hour if price else ""),
        Field(name="currency", label="Currency", value=price.currency if price else "", hint="EUR"),
        *(
            counted(name, label, value="" if (most := getattr(capacity, name)) is None else str(most))
            for name, label in limits.items()
        ),
    )


def _terms(form: Form) -> dict[str, Any]:
    """
    Raises:
        InvalidInput: one of them is none, or a price has no currency.
    """
    price = {"vcpu_hour": maybe(form, "vcpu_hour"), "gib_hour": maybe(form, "gib_hour")}
    currency = maybe(form, "currency")
    if currency is None and any(price.values()):
        raise InvalidInput("a price needs a currency", hint="for example EUR")
    capacity = {name: number(form, name) for name in ("machines", "vcpus", "memory_mib")}
    return {
        "location": (maybe(form, "location") or "").lower() or None,
        "price": currency and request_of(Price, {"currency": currency.upper(), **price}),
        "capacity": request_of(Capacity, capacity),
    }


async def _register_fields(ask: Ask, _about: Any) -> tuple[Field, ...]:
    return (
        Field(name="name", label="Name", required=True, hint="users read it"),
        Field(name="kind", label="Platform", value="qemu", required=True),
        Field(name="options", label="Options of its driver", kind="lines", hint="KEY=VALUE, a line each"),
        *await _terms_fields(ask, None),
    )


async def _register(control: Northbound, form: Form) -> DomainView:
    options = dict[str, str]()
    for line in lines(form, "options"):
        key, given, value = line.partition("=")
        if not given:
            raise InvalidInput(f"{line!r} is not KEY=VALUE")
        options[key.strip()] = value.strip()
    asked = {"name": written(form, "name"), "kind": written(form, "kind"), "options": options, **_terms(form)}
    return await control.southbound().register_domain(request_of(RegisterDomain, asked))


async def _plan(control: Northbound, ref: Ref, form: Form) -> object:
    ahead = number(form, "drain_ahead_min")
    asked = {
        "domain": ref,
        "begins_at": moment(form, "begins_at"),
        "ends_at": moment(form, "ends_at"),
        "drain_ahead_s": None if ahead is None else ahead * 60.0,
        "reason": written(form, "reason"),
    }
    return await control.southbound().plan_window(request_of(PlanWindow, asked))


_WHEN = fixed(
    Field(name="begins_at", label="Begins, in UTC", kind="datetime-local", required=True),
    Field(name="ends_at", label="Ends, in UTC", kind="datetime-local", required=True),
    counted(
        "drain_ahead_min",
        "Move away what runs there, minutes ahead",
        most=7 * 24 * 60,
        hint="it stays, if this is left out",
    ),
    Field(name="reason", label="Reason", hint="users read it"),
)


async def _set(control: Northbound, ref: Ref, form: Form) -> object:
    return await control.southbound().set_domain(ref, request_of(DomainTerms, _terms(form)))


DOMAIN_ACTIONS = (
    Action("domains", "set", "Set terms", _WRITE, _set, fields=_terms_fields),
    Action("domains", "plan", "Plan maintenance", _WRITE, _plan, fields=_WHEN),
    Action("domains", "drain", "Drain", _WRITE,
        lambda control, ref, _: control.southbound().drain_domain(ref),
        when=lambda view: not view.draining, grave=True),
    Action("domains", "undrain", "Undrain", _WRITE,
        lambda control, ref, _: control.southbound().undrain_domain(ref), when=lambda view: view.draining),
    Action("domains", "remove", "Remove", _WRITE,
        lambda control, ref, _: control.southbound().remove_domain(ref),
        loses="Nobody can rent a machine there any more. One in which something is rented stays."),
    Action("windows", "cancel", "Cancel", _WRITE,
        lambda control, ref, _: control.southbound().cancel_window(ref),
        when=lambda view: view.state is not WindowState.OVER,
        loses="It is not announced any more. What it has closed is open again."),
    Action("drains", "cancel", "Cancel", _WRITE,
        lambda control, ref, _: control.southbound().cancel_drain(ref),
        when=lambda view: view.ended_at is None, grave=True),
    *DOMAIN_SECURITY_ACTIONS,
)  # fmt: skip

DOMAIN_MAKINGS = (
    Making("domains", "Register a domain", "Register", _WRITE, _register, _register_fields, in_cloud=False),
    *DOMAIN_SECURITY_MAKINGS,
)
