"""Who may do what, in the page: principals with their keys, tokens as far as they are known here, and for
each cloud whoever reaches it. What is made of a token offline is known to nobody, so that it is not here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from supercloud.api.pages import TEXT, TIMED
from supercloud.model.kinds import Kind as Changed
from supercloud.model.names import Id, Name
from supercloud.model.permissions import APART, Permission, allowed, with_implied
from supercloud.model.trust import TrustState
from supercloud.services.northbound import Northbound
from supercloud.services.pages import Page, Part
from supercloud.services.requests import Ref, RevokeToken
from supercloud.services.views import CloudView, PrincipalView, TokenView, TrustView
from supercloud.web import cells
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.deed import Action
from supercloud.web.kind import Facts, Kind, Section
from supercloud.web.kind import named as titled
from supercloud.web.tones import Tone

_P = Permission
#: So much of a token's id tells it apart (128 bits of a signature), and is what a person calls it.
_TELLS_APART, _SAID = 32, 16
#: On one page.
_MOST = 100


# ---------------------------------------------------------------- principals


def _principal_row(view: PrincipalView) -> tuple[Cell, ...]:
    return (
        titled("principals", view),
        cells.many(view.roles),
        cells.number(view.clouds),
        cells.code(view.key),
    )


def _principal_facts(view: PrincipalView) -> Facts:
    return [
        ("Roles", cells.many(view.roles)),
        ("Public key", cells.code(view.key)),
        ("Clouds of its own", cells.number(view.clouds)),
        ("Since", cells.moment(view.created_at)),
    ]


async def _of_principal(ask: Ask, view: PrincipalView) -> list[Section]:
    tokens = await ask.some(_P.TOKEN_READ, lambda control: control.tokens(page=Page(name=view.name)))
    clouds = await ask.some(_P.CLOUD_READ, lambda control: control.clouds())
    own = [one for one in clouds if one.owner == view.name]
    return [
        _tokens([Held(one) for one in tokens]),
        Section(
            title="Clouds",
            caption="Clouds that are its own",
            columns=("Cloud", "Within", "Blankets", "Instances"),
            rows=[
                (
                    cells.link("clouds", one.name, at=one.id),
                    cells.link("clouds", one.parent),
                    cells.number(one.blankets),
                    cells.number(one.instances),
                )
                for one in own[:_MOST]
            ],
            nothing="None that you can read.",
            more=len(own) > _MOST,
        ),
        _may("What its roles allow", allowed(view.roles), "in clouds of its own"),
    ]


# ---------------------------------------------------------------- tokens


@dataclass(frozen=True, slots=True)
class Held:
    """A token as it was minted, by as much of its id as a path takes."""

    view: TokenView

    @property
    def id(self) -> str:
        return self.view.id[:_TELLS_APART]

    @property
    def name(self) -> str:
        return self.view.id[:_SAID]

    @property
    def counts(self) -> bool:
        return not self.view.revoked


async def _held(control: Northbound, ref: Ref) -> Held:
    return Held(await control.token(ref))


async def _listed(control: Northbound, page: Page) -> Part[Held]:
    found = await control.tokens(page=page)
    held = Part(Held(one) for one in found)
    held.after = found.after
    return held


def _state(held: Held) -> Cell:
    return cells.toned("counts", Tone.GOOD) if held.counts else cells.toned("revoked", Tone.OFF)


def _bounds(view: TokenView) -> str:
    """What it was minted for."""
    only = "all that its principal may" if view.only is None else ", ".join(sorted(view.only))
    where = "" if view.clouds is None else f", in {len(view.clouds)} clouds only"
    return f"{only}{where}"


def _token_row(held: Held) -> tuple[Cell, ...]:
    view = held.view
    return (
        titled("tokens", held),
        cells.link("principals", view.principal),
        _state(held),
        cells.text(_bounds(view)),
        cells.moment(view.minted_at),
        cells.moment(view.expires_at),
    )


_TOKEN_COLUMNS = ("Token", "Principal", "State", "Minted for", "Minted", "Ends")


def _tokens(found: list[Held]) -> Section:
    return Section(
        title="Tokens",
        caption="Tokens that were minted for it",
        columns=_TOKEN_COLUMNS,
        rows=[_token_row(one) for one in found[:_MOST]],
        nothing="None that has not expired.",
        more=len(found) > _MOST,
    )


def _token_facts(held: Held) -> Facts:
    view = held.view
    return [
        ("State", _state(held)),
        ("Principal", cells.link("principals", view.principal)),
        ("Minted for", cells.text(_bounds(view))),
        ("Id", cells.code(view.id)),
        ("Minted", cells.moment(view.minted_at)),
        ("Ends", cells.moment(view.expires_at)),
    ]


async def _of_token(ask: Ask, held: Held) -> list[Section]:
    view = held.view
    principals = await ask.some(
        _P.PRINCIPAL_READ, lambda control: control.principals(page=Page(name=view.principal))
    )
    roles = {role for one in principals for role in one.roles}
    if not roles:
        return []
    may = allowed(roles, only=view.only, everywhere=view.clouds is None)
    where = await _where(ask, view.clouds)
    return [_may("What it allows", may if held.counts else (), where)]


async def _where(ask: Ask, clouds: tuple[Id, ...] | None) -> str:
    if clouds is None:
        return "in clouds of its principal's"
    known = await ask.some(_P.CLOUD_READ, lambda control: control.clouds())
    names: Mapping[Id, Name] = {one.id: one.name for one in known}
    return "in " + ", ".join(names.get(one, one) for one in clouds)


def _may(title: str, permissions: Collection[Permission], where: str) -> Section:
    by_thing: defaultdict[str, list[str]] = defaultdict(list)
    for one in Permission:
        if one in permissions:
            by_thing[one.thing].append(one.value.partition(":")[2])
    return Section(
        title=title,
        caption=f"{title}, by what it is about",
        columns=("About", "May", "Where"),
        rows=[
            (cells.text(thing), cells.many(acts), cells.text("" if thing in _APART else where))
            for thing, acts in by_thing.items()
        ],
        nothing="Nothing.",
    )


#: What is in no cloud.
_APART = {one.thing for one in APART} - {"cloud"}


# ---------------------------------------------------------------- of a cloud


async def who_may(ask: Ask, view: CloudView) -> Section:
    """Whoever reaches a cloud: who has it, or one around it; by which tokens; the clouds that it trusts."""
    tokens = await ask.some(_P.TOKEN_READ, lambda control: control.tokens())
    trusts = await ask.some(
        _P.TRUST_READ,
        lambda control: control.trusts(cloud=view.id, page=Page(state=TrustState.ACTIVE)),
    )
    rows = [_has(view)]
    if view.parent is not None:
        around = cells.link("clouds", view.parent)
        rows.append((around, cells.text("whoever has the cloud around it"), cells.text("everything")))
    rows += [_by_token(one) for one in tokens if _reaches(one, view)]
    rows += [_by_trust(one) for one in trusts if one.cloud_id == view.id]
    return Section(
        title="Who may do what in it",
        caption="Who may do what in it",
        columns=("Who", "Because", "May"),
        rows=rows[:_MOST],
        nothing="Nobody.",
        more=len(rows) > _MOST,
    )


def _has(view: CloudView) -> tuple[Cell, ...]:
    whose = cells.link("principals", view.owner) if view.owner else cells.text("every operator")
    why = "owns it" if view.owner else "it is nobody's own"
    return whose, cells.text(why), cells.text("everything")


def _reaches(token: TokenView, view: CloudView) -> bool:
    """A minted one that still counts, for less than everything: that its principal has besides is said."""
    bounded = token.only is not None or token.clouds is not None
    here = token.clouds is None or view.id in token.clouds
    return bounded and here and not token.revoked and token.principal == view.owner


def _by_token(token: TokenView) -> tuple[Cell, ...]:
    held = Held(token)
    only = None if token.only is None else with_implied(frozenset(token.only)) - APART
    return (
        cells.link("tokens", held.name, at=held.id),
        cells.text(f"a token of {token.principal}'s"),
        cells.text("everything") if only is None else cells.many(sorted(only)),
    )


def _by_trust(one: TrustView) -> tuple[Cell, ...]:
    return (
        cells.link("trust", one.to, at=one.id),
        cells.text("it is trusted"),
        cells.text(f"{one.kind} {one.thing}"),
    )


PRINCIPAL_KINDS = (
    Kind(
        path="principals",
        one="principal",
        title="Principals",
        read=_P.PRINCIPAL_READ,
        key=TEXT,
        watched=(Changed.PRINCIPAL, Changed.TOKEN, Changed.CLOUD),
        columns=("Name", "Roles", "Clouds", "Public key"),
        listed=lambda control, _, page: control.principals(page=page),
        shown=lambda control, ref, _: control.principal(ref),
        row=_principal_row,
        facts=_principal_facts,
        sections=_of_principal,
        in_cloud=False,
    ),
    Kind(
        path="tokens",
        one="token",
        title="Tokens",
        read=_P.TOKEN_READ,
        key=TIMED,
        watched=(Changed.TOKEN, Changed.PRINCIPAL),
        columns=_TOKEN_COLUMNS,
        listed=lambda control, _, page: _listed(control, page),
        shown=lambda control, ref, _: _held(control, ref),
        row=_token_row,
        facts=_token_facts,
        sections=_of_token,
        in_cloud=False,
    ),
)
PRINCIPAL_ACTIONS = (
    Action("tokens", "revoke", "Revoke", _P.TOKEN_REVOKE,
        lambda control, ref, _: control.revoke_token(RevokeToken(id=ref)),
        when=lambda held: held.counts,
        loses="It counts no more, with all that was made of it and every session that was opened with it."),
)  # fmt: skip
