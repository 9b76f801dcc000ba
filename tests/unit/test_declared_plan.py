"""The plan between what is declared and what is there: carried out, in any order that it allows, nothing is
left to do; and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from clouds import declared
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pretend import Elsewhere, Pretend

from supercloud.cli.declared.plan import plan
from supercloud.cli.declared.read import Declared, read
from supercloud.cli.declared.steps import Act, Kind, Plan
from supercloud.cli.declared.there import BlanketThere, UnderWay
from supercloud.cli.declared.write import document, lacks, text
from supercloud.model.names import new_id
from supercloud.model.quota import Quota
from supercloud.model.states import BlanketState, InstanceState
from supercloud.model.trust import TrustKind, TrustState
from supercloud.services.views import TrustView, WantedCloud

pytestmark = pytest.mark.unit
many = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def carry_out(
    found: Plan, world: Pretend, data: st.DataObject | None = None, *, until: int | None = None
) -> None:
    """In an order of hypothesis' choice, as steps at once may end; `until` so many are done."""
    done: set[str] = set()
    left = list(found.steps)
    while left and (until is None or len(done) < until):
        ready = [step for step in left if step.needs <= done]
        assert ready, "steps wait for each other"
        step = data.draw(st.sampled_from(ready)) if data is not None else ready[0]
        world.do(step.call)
        done.add(step.key)
        left.remove(step)


def there_of(wanted: Declared) -> Pretend:
    world = Pretend()
    found = plan(wanted, world.there())
    assert not found.refusals
    carry_out(found, world)
    return world


@many
@given(declared(texts=False), st.data())
def test_applied_to_nothing_it_is_there_and_applied_again_nothing_is_done(
    wanted: Declared, data: st.DataObject
) -> None:
    world = Pretend()
    found = plan(wanted, world.there())
    assert not found.refusals and not found.taken_away
    carry_out(found, world, data)
    again = plan(wanted, world.there())
    assert not again.differs and not again.extras, again


@many
@given(
    declared(texts=False, alike=True),
    declared(texts=False, alike=True, grown=True),
    st.booleans(),
    st.data(),
)
def test_from_one_cloud_to_another(
    before: Declared, after: Declared, prune: bool, data: st.DataObject
) -> None:
    """What can be changed is; what cannot is refused; what is not in the file goes only if it is pruned."""
    world = there_of(before)
    for name in world.instances:
        world.states[name] = data.draw(st.sampled_from([InstanceState.RUNNING, InstanceState.STOPPED]))
    had = dataclasses.replace(world.there())
    found = plan(after, had, prune=prune)
    event(f"prune: {prune}, " + ("refused" if found.refusals else f"{len(found.steps)} steps"))
    if not prune:
        assert all(step.act is not Act.REMOVE and step.act is not Act.STOP for step in found.steps)
    if found.refusals:
        return
    try:
        carry_out(found, world, data)
    except Elsewhere:
        anywhere = {one.name for one in after.wanted.instances if one.on is None}
        assert anywhere & {step.name for step in found.steps if step.act is Act.CREATE}
        return
    again = plan(after, world.there(), prune=prune)
    assert not again.differs, again
    assert not (prune and again.extras)
    kept = {one.name for one in after.wanted.volumes}
    assert not kept & world.lost, "what the file wants is not lost with a blanket"


def room(of: Declared, vcpus: int, memory_mib: int) -> Declared:
    """With a quota for exactly its own instances, and so much more."""
    instances = of.wanted.instances
    quota = Quota(
        vcpus=sum(one.vcpus for one in instances) + vcpus,
        memory_mib=sum(one.memory_mib for one in instances) + memory_mib,
    )
    cloud_itself = dataclasses.replace(of.wanted.cloud, quota=quota)
    return dataclasses.replace(of, quota=quota, wanted=dataclasses.replace(of.wanted, cloud=cloud_itself))


def relation(kind: TrustKind, thing: str) -> TrustView:
    return TrustView(
        id=new_id(), kind=kind, cloud="mine", cloud_id="1", to="lab", to_id="2", thing=thing, digest=None,
        network=None, to_network=None, of_id=None, blanket=None, guests=(), reactions=(), delegable=False,
        parent=None, depth=0, state=TrustState.ACTIVE, closed=None, needs_approval=False, created_at=0.0,
        expires_at=1.0, revoked_at=None,
    )  # fmt: skip


@many
@given(
    declared(texts=False, alike=True),
    declared(texts=False, alike=True, grown=True),
    st.tuples(st.integers(0, 2), st.integers(0, 700)),
    st.integers(0, 40),
    st.data(),
)
def test_whatever_is_pruned_goes_before_what_it_is_made_of_and_what_takes_its_place_comes_after(
    before: Declared, after: Declared, more: tuple[int, int], until: int, data: st.DataObject
) -> None:
    """Within quotas that fit exactly, with blankets inside blankets and trust about what goes; and broken off
    anywhere, the next one does the rest."""
    world = there_of(room(before, *more))
    for name in [one for one in ("s1", "s2") if one in world.blankets and "n1" in world.blankets]:
        if data.draw(st.booleans()) and name not in {one.name for one in after.wanted.blankets}:
            world.blankets[name] = dataclasses.replace(world.blankets[name], provider=None, parent="n1")
    world.trust = tuple(
        relation(kind, thing)
        for kind, things in (
            (TrustKind.CONNECT, world.networks),
            (TrustKind.PLACE, world.blankets),
            (TrustKind.SEE_FINDINGS, ("mine",)),
        )
        for thing in sorted(things)
    )
    world.counts = True
    wanted = room(after, 0, 0)
    found = plan(wanted, world.there(), prune=True)
    event("refused" if found.refusals else f"{len(found.taken_away)} taken away")
    if found.refusals:
        return
    try:
        if until < len(found.steps):
            carry_out(found, world, data, until=until)
            found = plan(wanted, world.there(), prune=True)
            if found.refusals:  # it came to be where a volume is not that it is to have
                assert any(one.on is None for one in after.wanted.instances), found.refusals
                return
        carry_out(found, world, data)
    except Elsewhere:
        return
    again = plan(wanted, world.there(), prune=True)
    assert not again.differs and not again.extras and not world.trust, again


# ---------------------------------------------------------------- what cannot be drawn so easily


def cloud(body: str, tmp_path: Path, *, terms: str = "name: mine") -> Declared:
    head = f"version: 1\ncloud: {{{terms}}}\nproviders: {{north: {{kind: qemu}}}}\n"
    return read((head + body).encode(), "cloud.yaml", tmp_path).declared


TWO = """\
blankets: {n1: {provider: north}, s1: {provider: north}}
networks: {lan: {cidr: 10.1.0.0/24}}
volumes: {data: {size: 16M}}
instances:
  web: {image: debian, blanket: n1, networks: [lan], volumes: [data]}
"""


def keys(found: Plan) -> list[str]:
    return [step.key for step in found.steps]


def test_a_blanket_inside_another_comes_after_it_and_goes_before_it(tmp_path: Path) -> None:
    said = "blankets: {a1: {in: n1, vcpus: 1}, n1: {provider: north}, far: {in: another-clouds}}\n"
    wanted = cloud(said, tmp_path)
    world = Pretend()
    found = plan(wanted, world.there())
    assert not found.refusals
    needs = {step.name: step.needs for step in found.steps if step.kind is Kind.BLANKET}
    assert any("n1" in one for one in needs["a1"]) and not any("another" in one for one in needs["n1"])
    carry_out(found, world)
    assert world.blankets["a1"].parent == "n1" and world.blankets["a1"].provider is None
    assert not plan(wanted, world.there()).differs
    moved = plan(
        cloud(said.replace("{in: n1, vcpus: 1}", "{provider: north, vcpus: 1}"), tmp_path), world.there()
    )
    assert {one.path[-1] for one in moved.refusals} == {"provider", "in"}, "it is made anew, or stays"
    assert text(document(wanted.wanted, {})).count("in: ") == 2
    gone = plan(cloud("blankets: {far: {in: another-clouds}}\n", tmp_path), world.there(), prune=True)
    (inner,) = [step for step in gone.steps if step.name == "a1"]
    (outer,) = [step for step in gone.steps if step.name == "n1"]
    assert inner.key in outer.needs


def test_a_blanket_that_never_came_to_be_is_made_again(tmp_path: Path) -> None:
    wanted = cloud("blankets: {n1: {provider: north}}", tmp_path)
    world = there_of(wanted)
    world.blanket_states["n1"] = BlanketThere(state=BlanketState.FAILED, joined=False, reason="no room")
    found = plan(wanted, world.there())
    assert keys(found) == ["clear blanket n1", "create blanket n1"] and not found.taken_away
    assert found.steps[1].needs == {"clear blanket n1"}
    world.blanket_states["n1"] = BlanketThere(state=BlanketState.REVOKED, reason="it was cloned")
    found = plan(wanted, world.there())
    assert not found.steps and "it was cloned" in found.refusals[0].why, "something may be in it"
    world.blanket_states["n1"] = BlanketThere(state=BlanketState.UNREACHABLE)
    assert not plan(wanted, world.there()).differs, "whether it runs is its owner's"


def test_what_is_being_made_is_waited_for_and_what_needs_it_comes_later(tmp_path: Path) -> None:
    wanted = cloud(TWO, tmp_path)
    world = there_of(cloud(TWO.partition("instances")[0], tmp_path))
    world.under_way[Kind.BLANKET, "n1"] = UnderWay(operation="7", kind="blanket.add")
    found = plan(wanted, world.there())
    assert keys(found) == ["wait blanket n1"] and found.steps[0].call.path == "/operations/7"
    world.under_way.clear()
    carry_out(plan(wanted, world.there()), world)
    world.under_way[Kind.INSTANCE, "web"] = UnderWay(operation="8", kind="instance.migrate")
    assert not plan(wanted, world.there()).differs, "nothing is to be done to it"
    moved = cloud(TWO.replace("blanket: n1", "blanket: s1"), tmp_path)
    world.states["web"] = InstanceState.MIGRATING
    waits = plan(moved, world.there())
    assert keys(waits) == ["wait instance web"] and not waits.refusals


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (InstanceState.RUNNING, ["migrate instance web"]),
        (InstanceState.FAILED, ["start instance web", "migrate instance web"]),
        (InstanceState.STOPPED, []),
        (InstanceState.FENCED, []),
    ],
)
def test_only_what_runs_moves(state: InstanceState, expected: list[str], tmp_path: Path) -> None:
    world = there_of(cloud(TWO, tmp_path))
    world.states["web"] = state
    found = plan(cloud(TWO.replace("blanket: n1", "blanket: s1"), tmp_path), world.there())
    assert keys(found) == expected
    assert [one.hint for one in found.refusals] == ([] if expected else ["supercloud vm start web"])


@pytest.mark.parametrize(
    ("old", "new", "path", "hint"),
    [
        ("10.1.0.0", "10.2.0.0", ("networks", "lan", "cidr"), "supercloud network rm lan"),
        ("size: 16M", "size: 8M", ("volumes", "data", "size"), "change the file back"),
        ("size: 16M", "size: 16M, image: debian", ("volumes", "data", "image"), "volume rm data"),
        ("image: debian", "image: alpine", ("instances", "web", "image"), "vm rm web"),
        ("image: debian", "image: debian, vcpus: 2", ("instances", "web", "vcpus"), "vm rm web"),
        ("image: debian", "image: debian, userData: x", ("instances", "web", "userData"), "vm rm web"),
        ("n1: {provider: north}", "n1: {provider: south}", ("blankets", "n1", "provider"), "`north`?"),
        ("n1: {provider: north}", "n1: {provider: north, disk: 9G}", ("blankets", "n1", "disk"), "rm n1"),
    ],
)
def test_what_cannot_change_is_refused_where_it_stands(
    old: str, new: str, path: Any, hint: str, tmp_path: Path
) -> None:
    world = there_of(cloud(TWO, tmp_path))
    world.providers["noth"] = world.providers["north"]
    found = plan(cloud(TWO.replace(old, new, 1), tmp_path), world.there())
    (refusal,) = found.refusals
    assert refusal.path == path and not found.steps
    assert hint in refusal.hint or hint == "`north`?"


def test_user_data_is_for_the_first_boot_and_shown_by_nothing(tmp_path: Path) -> None:
    secret = TWO.replace("image: debian", "image: debian, userData: hunter2")
    wanted = cloud(secret, tmp_path)
    found = plan(wanted, Pretend().there())
    assert "hunter" not in f"{found} {wanted} {dataclasses.asdict(wanted.wanted)}"
    (create,) = (step for step in found.steps if step.key == "create instance web")
    assert create.what.endswith(", with user data") and create.call.user_data == "hunter2"
    world = there_of(wanted)
    assert world.user_data == {"web": "hunter2"}
    for later in (secret.replace("hunter2", "hunter3"), TWO):
        assert not plan(cloud(later, tmp_path), world.there()).differs, "nobody can tell, or would boot anew"


def test_a_blanket_with_data_that_is_wanted_is_not_pruned(tmp_path: Path) -> None:
    world = there_of(cloud(TWO, tmp_path))
    one = TWO.replace("n1: {provider: north}, ", "")
    stays = plan(cloud(one.replace("blanket: n1, ", ""), tmp_path), world.there(), prune=True)
    assert [refusal.path for refusal in stays.refusals] == [("instances", "web", "blanket")]
    moves = plan(cloud(one.replace("blanket: n1", "blanket: s1"), tmp_path), world.there(), prune=True)
    assert keys(moves) == ["migrate instance web", "remove blanket n1"] and not moves.refusals
    left = plan(
        cloud(one.replace("blanket: n1", "blanket: s1").replace(", volumes: [data]", ""), tmp_path),
        world.there(),
        prune=True,
    )
    assert [refusal.path for refusal in left.refusals] == [("volumes", "data")]


def test_what_is_new_waits_for_what_is_in_its_way(tmp_path: Path) -> None:
    old = "blankets: {n1: {provider: north}}\nnetworks: {lan: {cidr: 10.1.0.0/24}}\n"
    web = "instances: {%s: {image: debian, networks: [%s], publish: ['80:80']}}\n"
    world = there_of(cloud(old + web % ("web", "lan"), tmp_path))
    new = cloud(
        old.replace("lan: {cidr: 10.1.0.0/24}", "wan: {cidr: 10.1.0.0/16}") + web % ("www", "wan"), tmp_path
    )
    kept = plan(new, world.there())
    assert {(one.kind, one.name) for one in kept.extras} == {(Kind.INSTANCE, "web"), (Kind.NETWORK, "lan")}
    order = keys(plan(new, world.there(), prune=True))
    assert order.index("stop instance web") < order.index("remove instance web")
    assert order.index("remove network lan") < order.index("create network wan")
    assert order.index("remove instance web") < order.index("create instance www")


def test_a_port_and_a_disk_are_free_before_they_are_used_or_removed(tmp_path: Path) -> None:
    ported = TWO.replace("networks: [lan]", "networks: [lan], publish: ['80:80']")
    world = there_of(cloud(ported, tmp_path))
    other = plan(cloud(ported.replace("  web:", "  www:"), tmp_path), world.there(), prune=True)
    needs = {one.key: one.needs for one in other.steps}
    assert "remove instance web" in needs["create instance www"]
    assert needs["attach volume data"] == {"remove instance web", "create instance www"}
    bare = TWO.replace("volumes: {data: {size: 16M}}\n", "").replace(", volumes: [data]", "")
    gone = plan(cloud(bare, tmp_path), world.there(), prune=True)
    assert any(one.path == ("instances", "web", "publish") for one in gone.refusals)
    needs = {one.key: one.needs for one in gone.steps}
    assert needs == {"detach volume data": frozenset(), "remove volume data": {"detach volume data"}}


def test_a_quota_is_as_the_file_says_and_a_cloud_stays_in_its_parent(tmp_path: Path) -> None:
    nested = cloud("", tmp_path, terms="name: mine, in: around, quota: {vcpus: 4, memory: 8G}")
    world = there_of(nested)
    assert world.cloud is not None
    assert (world.cloud.parent, world.cloud.quota) == ("around", Quota(vcpus=4, memory_mib=8192))
    same = plan(cloud("", tmp_path), world.there())
    assert not same.differs, "what the file does not say stays"
    larger = cloud("networks: {lan: {cidr: 10.1.0.0/24}}", tmp_path, terms="name: mine, quota: {}")
    steps = {step.key: step for step in plan(larger, world.there()).steps}
    assert steps["resize cloud mine"].what == "quota, 4 vCPUs, 8G memory to no bound"
    assert "resize cloud mine" in steps["create network lan"].needs
    (refused,) = plan(cloud("", tmp_path, terms="name: mine, in: other"), world.there()).refusals
    assert refused.path == ("cloud", "in") and "in around, not in other" in refused.why


def test_a_quota_grows_before_what_needs_it_and_shrinks_after_what_is_taken_away(tmp_path: Path) -> None:
    head = "name: mine, quota: {vcpus: %s, memory: %s}"
    world = there_of(cloud(TWO, tmp_path, terms=head % (1, "4G")))
    other = cloud(TWO.replace("  web:", "  www:"), tmp_path, terms=head % (2, "1G"))
    steps = {one.key: one for one in plan(other, world.there(), prune=True).steps}
    assert steps["resize cloud mine"].what == "quota, 1 vCPU, 4G memory to 2 vCPUs, 4G memory"
    assert steps["shrink cloud mine"].what == "quota, 2 vCPUs, 4G memory to 2 vCPUs, 1G memory"
    assert "resize cloud mine" in steps["create instance www"].needs
    assert "remove instance web" in steps["shrink cloud mine"].needs & steps["create instance www"].needs
    less = plan(cloud("", tmp_path, terms=head % (0, "0")), world.there(), prune=True)
    assert not [one for one in less.steps if one.act is Act.RESIZE]
    assert {"remove instance web", "remove volume data", "remove blanket n1", "remove blanket s1"} <= (
        less.steps[-1].needs
    )


def test_a_blanket_with_others_guests_in_it_is_not_pruned(tmp_path: Path) -> None:
    """It is said before anything is taken away."""
    world = there_of(cloud(TWO, tmp_path))
    there = dataclasses.replace(world.there(), guests={"n1": ("77",)})
    (refused,) = plan(cloud("", tmp_path), there, prune=True).refusals
    assert (refused.kind, refused.name) == (Kind.BLANKET, "n1") and "77" in refused.why


def test_levels_change_before_what_they_decide(tmp_path: Path) -> None:
    world = there_of(cloud(TWO, tmp_path))
    higher = TWO.replace("cidr: 10.1.0.0/24", "cidr: 10.1.0.0/24, level: hardened")
    higher = higher.replace("size: 16M", "size: 16M, level: baseline").replace("blanket: n1", "blanket: s1")
    found = plan(cloud(higher + "  db: {image: debian, networks: [lan]}\n", tmp_path), world.there())
    needs = {one.key: one.needs for one in found.steps}
    assert not found.lowered and "raise network lan" in needs["create instance db"]
    order = keys(found)
    assert order.index("raise network lan") < order.index("migrate instance web")
    assert order.index("raise volume data") < order.index("migrate instance web")
    carry_out(found, world)
    assert not plan(cloud(TWO.replace("blanket: n1", "blanket: s1"), tmp_path), world.there()).differs
    lower = plan(cloud(higher.replace("level: hardened", "level: open"), tmp_path), world.there())
    assert [step.key for step in lower.lowered] == ["lower network lan"] and not lower.taken_away
    assert lower.lowered[0].call.body == {"level": "open", "lower": True}


def test_a_missing_image_is_refused_with_what_is_there(tmp_path: Path) -> None:
    wanted = cloud(TWO.replace("image: debian", "image: debain"), tmp_path)
    (refusal,) = plan(wanted, Pretend().there()).refusals
    assert "supercloud image import FILE --name debain" in refusal.hint and "`debian`?" in refusal.hint


# ---------------------------------------------------------------- written, and read again


@many
@given(declared())
def test_what_is_written_is_read_as_it_was(wanted: Declared) -> None:
    written = text(document(wanted.wanted, wanted.providers))
    found = read(written.encode(), "cloud.yaml", Path("/nowhere")).declared
    assert found.wanted == dataclasses.replace(wanted.wanted, user_data=()), written
    assert not found.user_data
    used = {one.provider for one in wanted.wanted.blankets}
    used |= {name for one in wanted.wanted.instances for name in one.placement.domains}
    assert found.providers == {name: one for name, one in wanted.providers.items() if name in used}


@many
@given(declared())
def test_an_export_does_not_differ_and_makes_the_same_elsewhere(wanted: Declared) -> None:
    """But for user data, of which it says that it is not there."""
    world = there_of(wanted)
    there = world.there()
    assert there.wanted is not None
    written = text(document(there.wanted, there.providers), lacks(there.wanted))
    assert written.startswith("# ") == bool(wanted.user_data)
    assert all(name in written.partition("\n")[0] for name in wanted.user_data)
    back = read(written.encode(), "back.yaml", Path("/nowhere")).declared
    found = plan(back, there, prune=True)
    assert not found.differs and not found.extras, found
    again = there_of(back).there().wanted
    assert again is not None
    assert by_name(again) == by_name(dataclasses.replace(there.wanted, user_data=()))


def by_name(wanted: WantedCloud) -> WantedCloud:
    def kind(things: Any) -> Any:
        return tuple(sorted(things, key=lambda one: one.name))

    return dataclasses.replace(
        wanted,
        blankets=kind(wanted.blankets),
        networks=kind(wanted.networks),
        volumes=kind(wanted.volumes),
        instances=kind(wanted.instances),
    )
