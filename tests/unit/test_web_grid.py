"""The two-dimensional view, as a function of what the API shows."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import pytest

from supercloud.model.domains import Capacity, Rented, WindowState
from supercloud.model.findings import Layer, Severity
from supercloud.model.incidents import IncidentState
from supercloud.model.levels import Level
from supercloud.model.names import new_id
from supercloud.model.placement import ANYWHERE, Confidentiality
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.model.trust import TrustState
from supercloud.ports.platform import Flavour
from supercloud.services.incident_views import IncidentView
from supercloud.services.southbound import DomainView, MachineView
from supercloud.services.views import BlanketView, InstanceView, OperationView, ProviderView
from supercloud.web.grid import Grid, domain_grid_of, grid_of
from supercloud.web.tones import Tone, tone_of

pytestmark = pytest.mark.unit


def provider(name: str, *, draining: bool = False) -> ProviderView:
    return ProviderView(
        id=new_id(),
        name=name,
        kind="qemu",
        options={},
        accelerator="kvm",
        nesting=True,
        nested_levels=1,
        nested_reason="",
        confidentiality=Confidentiality.PROCEDURAL,
        abilities=(),
        reason="",
        blankets=1,
        location=None,
        price=None,
        draining=draining,
        accepted=True,
        gives=Level.BASELINE,
        takes=(),
        maintenance=(),
    )


def blanket(
    name: str, provider: str, state: BlanketState = BlanketState.READY, cloud_id: str = "c1"
) -> BlanketView:
    return BlanketView(
        id=new_id(),
        name=name,
        cloud="c",
        cloud_id=cloud_id,
        provider=provider,
        parent=None,
        depth=0,
        deeper=1,
        state=state,
        flavour=Flavour.KVM,
        connected=state is BlanketState.READY,
        agent_version=None,
        mesh_address="",
        confidentiality=Confidentiality.PROCEDURAL,
        instances=0,
        gives=Level.HARDENED,
        reason="",
    )


def instance(name: str, on: BlanketView | None, state: InstanceState = InstanceState.RUNNING) -> InstanceView:
    return InstanceView(
        id=new_id(),
        name=name,
        cloud="c",
        cloud_id="c1" if on is None else on.cloud_id,
        state=state,
        blanket=None if on is None else on.name,
        blanket_id=None if on is None else on.id,
        epoch=1,
        right_left_s=None,
        hold=False,
        vcpus=1,
        memory_mib=512,
        image="debian",
        addresses=(),
        macs=(),
        networks=(),
        volumes=(),
        published=(),
        group=None,
        placement=ANYWHERE,
        placed="",
        level=Level.OPEN,
        reason="",
        created_at=0.0,
    )


def migration(of: InstanceView, to: BlanketView) -> OperationView:
    return OperationView(
        id=new_id(),
        kind="instance.migrate",
        object=of.id,
        object_name=of.name,
        state=OperationState.RUNNING,
        phase="transfer",
        done=0.456,
        error=None,
        result=None,
        created_at=0.0,
        ended_at=None,
        to=to.id,
    )


def drawn(grid: Grid) -> dict[str, tuple[list[str], list[str], bool]]:
    """Of each domain: its instances, its blankets, whether it has a platform."""
    return {
        one.name: (
            [tile.name for group in one.instances for tile in group.tiles],
            [tile.name for tile in one.blankets],
            one.platform is not None,
        )
        for one in grid.domains
    }


def test_each_thing_is_in_its_cell() -> None:
    n1, n2 = blanket("n1", "north"), blanket("n2", "north")
    grid = grid_of(
        providers=[provider("south"), provider("north")],
        blankets=[n1, n2, blanket("x", "unseen")],
        instances=[instance("a", n1), instance("b", n2), instance("new", None, InstanceState.CREATED)],
        operations=[],
    )
    assert drawn(grid) == {
        "north": (["a", "b"], ["n1", "n2"], True),
        "south": ([], [], True),
        "unseen": ([], ["x"], False),
    }
    assert [one.name for one in grid.domains] == ["north", "south", "unseen"]
    assert [group.blanket for group in grid.domains[0].instances] == ["n1", "n2"]
    assert [tile.name for tile in grid.nowhere] == ["new"] and not grid.empty
    assert grid_of(providers=[], blankets=[], instances=[], operations=[]).empty


def test_what_moves_is_in_two_cells() -> None:
    from_, there = blanket("n1", "north"), blanket("s1", "south")
    moving, blankets = instance("web", from_, InstanceState.MIGRATING), [from_, there]
    operation = migration(moving, there)
    grid = grid_of(providers=[], blankets=blankets, instances=[moving], operations=[operation])
    (here,), (to,) = [[tile for group in one.instances for tile in group.tiles] for one in grid.domains]
    assert here.key == to.key and (here.arriving, to.arriving) == (False, True)
    assert here.move is not None and here.move == to.move
    assert (here.move.source, here.move.target, here.move.percent) == ("n1", "s1", 46)
    arrived = replace(moving, blanket="s1", blanket_id=there.id, state=InstanceState.RUNNING)
    grid = grid_of(providers=[], blankets=blankets, instances=[arrived], operations=[operation])
    assert drawn(grid) == {"north": ([], ["n1"], False), "south": (["web"], ["s1"], False)}
    unseen = replace(operation, to=new_id())
    grid = grid_of(providers=[], blankets=blankets, instances=[moving], operations=[unseen])
    assert drawn(grid)["north"][0] == ["web"] and drawn(grid)["south"][0] == []


def test_two_clouds_of_one_name_are_two() -> None:
    """Whoever has a cloud that others' are within may have two of one name, with blankets of one name."""
    here, there = blanket("n1", "north"), blanket("n1", "south", cloud_id="c2")
    moving = instance("c", here, InstanceState.MIGRATING)
    grid = grid_of(
        providers=[],
        blankets=[here, there],
        instances=[instance("a", here), instance("b", there), moving],
        operations=[migration(moving, there)],
    )
    assert drawn(grid) == {"north": (["a", "c"], ["n1"], False), "south": (["b", "c"], ["n1"], False)}
    arriving = [tile for group in grid.domains[1].instances for tile in group.tiles if tile.arriving]
    assert [one.name for one in arriving] == ["c"]


def test_what_is_in_a_blanket_that_is_not_drawn_is_not_lost() -> None:
    grid = grid_of(
        providers=[], blankets=[], instances=[instance("a", blanket("n1", "north"))], operations=[]
    )
    (tile,) = grid.nowhere
    assert tile.name == "a" and tile.lines[-1] == "in n1"


def test_each_cell_says_the_level_that_is_there_or_can_be() -> None:
    n1 = blanket("n1", "north")
    bad = replace(blanket("n2", "north"), gives=None)
    safe = replace(instance("a", n1), level=Level.BASELINE)
    grid = grid_of(providers=[provider("north")], blankets=[n1, bad], instances=[safe], operations=[])
    (domain,) = grid.domains
    assert domain.platform is not None and domain.platform.level == "up to baseline"
    assert [one.level for one in domain.blankets] == ["up to hardened", "none"]
    assert [one.level for group in domain.instances for one in group.tiles] == ["baseline"]


def incident(at: BlanketView, *about: str, state: IncidentState = IncidentState.OPEN) -> IncidentView:
    return IncidentView(
        id=new_id(),
        state=state,
        severity=Severity.HIGH,
        title="a scan",
        cloud="c",
        cloud_id=at.cloud_id,
        blanket=at.name,
        blanket_id=at.id,
        horizontal=False,
        domain_id="d",
        objects=about,
        findings=1,
        layers=(Layer.L2,),
        opened_at=0.0,
        last_at=0.0,
        closed_at=None,
    )


def lit(grid: Grid) -> dict[str, str]:
    """What lights up, and what is said there."""
    every = [tile for one in grid.domains for group in one.instances for tile in group.tiles]
    every += [tile for one in grid.domains for tile in (*one.blankets, one.platform) if tile is not None]
    return {one.name: one.alarm.said for one in every if one.alarm is not None}


def test_what_an_open_incident_is_about_lights_up() -> None:
    n1, other = blanket("n1", "north"), blanket("x1", "north", cloud_id="c2")
    a, b, theirs = instance("a", n1), instance("b", n1), instance("theirs", other)
    platform = replace(provider("north"), id="d")
    escalated = incident(n1, b.id, state=IncidentState.ESCALATED)

    def drawing(*incidents: IncidentView) -> Grid:
        return grid_of(
            providers=[platform],
            blankets=[n1, other],
            instances=[a, b, theirs],
            operations=[],
            incidents=incidents,
        )

    assert lit(drawing()) == {}
    assert lit(drawing(incident(n1, a.id))) == {"a": "1 incident: open"}
    assert lit(drawing(incident(n1, n1.id, "d"))) == {"n1": "1 incident: open", "north": "1 incident: open"}
    assert lit(drawing(incident(n1, b.id), escalated)) == {"b": "2 incidents, one escalated"}
    assert lit(drawing(incident(n1, new_id()))) == {"n1": "1 incident: open"}, "it is gone: its blanket's"
    assert lit(drawing(incident(n1, theirs.id))) == {"n1": "1 incident: open"}, "nothing of another cloud"
    over_domains = replace(incident(n1, a.id, b.id), blanket=None, blanket_id=n1.cloud_id, horizontal=True)
    assert lit(drawing(over_domains)) == {"a": "1 incident: open", "b": "1 incident: open"}
    (north,) = drawing(escalated).domains
    alarm = north.instances[0].tiles[1].alarm
    assert alarm is not None and (alarm.href, alarm.tone) == (f"/web/incidents/{escalated.id}", Tone.BAD)


def domain(name: str, **other: object) -> DomainView:
    made = DomainView(
        id=new_id(),
        name=name,
        kind="qemu",
        options={},
        accepted=True,
        accelerator="kvm",
        nesting=True,
        confidentiality=Confidentiality.PROCEDURAL,
        abilities=(),
        reason="",
        location=None,
        price=None,
        capacity=Capacity(),
        rented=Rented(machines=1),
        takes=(),
        draining=False,
        created_at=0.0,
    )
    return replace(made, **other)  # type: ignore[arg-type]


def test_a_provider_has_machines_by_their_ids_and_no_instances() -> None:
    north, south = domain("north"), domain("south", draining=True)
    machine = MachineView(
        id=new_id(),
        domain="north",
        state=BlanketState.READY,
        connected=True,
        vcpus=2,
        memory_mib=2048,
        disk_bytes=1 << 30,
        in_use=True,
        created_at=0.0,
    )
    grid = domain_grid_of([north, south], {north.id: [machine]})
    assert grid.of_provider and not grid.empty
    assert drawn(grid) == {"north": ([], [machine.id], True), "south": ([], [], True)}
    states = [one.platform.state for one in grid.domains if one.platform]
    assert states == ["offered", "draining"] and domain_grid_of([], {}).empty


def test_drained_platforms_stand_out() -> None:
    (one,) = grid_of(
        providers=[provider("north", draining=True)], blankets=[], instances=[], operations=[]
    ).domains
    assert one.platform is not None and (one.platform.state, one.platform.tone) == ("draining", Tone.WARN)


@pytest.mark.parametrize(
    "states", [InstanceState, BlanketState, OperationState, TrustState, WindowState, IncidentState]
)
def test_every_state_has_a_tone_and_only_ends_are_off(
    states: type[StrEnum],
) -> None:
    off = {str(one) for one in states if tone_of(one) is Tone.OFF}
    assert off <= {"stopped", "removed", "cancelled", "expired", "revoked", "over", "closed"}
    assert tone_of(InstanceState.RUNNING) is Tone.GOOD and tone_of(OperationState.RUNNING) is Tone.BUSY
