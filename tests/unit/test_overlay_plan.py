"""What a blanket accepts from whom, whatever it is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.blanket.overlay.plan import (
    NOTHING,
    InstancePort,
    Knowledge,
    bridge_device,
    gateway_mac,
    link_device,
    plan,
    plugged,
    told_location,
    told_mesh,
    unplugged,
)
from supercloud.model.errors import InvalidInput
from supercloud.ports.overlay import Location, Mesh, Network, Peer

pytestmark = pytest.mark.unit
SELF = "00000000-0000-4000-8000-000000000000"


def _id(kind: int, number: int) -> str:
    return f"{number:04x}{kind:04x}-0000-4000-8000-{number:012x}"


def _key(number: int) -> str:
    return f"{number:043d}="


PEERS = tuple(
    Peer(
        blanket=_id(1, number),
        address=f"100.64.0.{number + 1}",
        endpoint=None,
        keys=(_key(number),),
        vxlan_port=4789 + number,
    )
    for number in range(1, 4)
)
NETWORKS = tuple(
    Network(
        id=_id(2, number),
        name=f"net{number}",
        vni=number,
        cidr=f"10.{number}.0.0/24",
        gateway=f"10.{number}.0.1",
    )
    for number in (1, 2)
)
MESH = Mesh(address="100.64.0.1", generation=1, peers=PEERS, networks=NETWORKS)


def _location(instance: int, network: int, blanket: str | None, epoch: int) -> Location:
    return Location(
        instance=_id(3, instance),
        name=f"vm{instance}",
        network=NETWORKS[network].id,
        mac=f"52:54:00:00:0{network}:{instance:02x}",
        ip=f"10.{network + 1}.0.{instance + 10}",
        blanket=blanket,
        epoch=epoch,
    )


locations = st.builds(
    _location,
    st.integers(1, 5),
    st.integers(0, 1),
    st.sampled_from([None, SELF, _id(1, 99), *(peer.blanket for peer in PEERS)]),
    st.integers(0, 4),
)


def _distinct(found: list[Location]) -> tuple[Location, ...]:
    return tuple({(one.instance, one.network): one for one in found}.values())


def _known(told: list[Location]) -> Knowledge:
    known = told_mesh(NOTHING, MESH)
    for one in told:
        known = told_location(known, one)
    return known


@given(st.lists(locations, max_size=30))
def test_only_the_blanket_of_the_highest_epoch_is_heard(told: list[Location]) -> None:
    wanted = plan(_known(told), blanket=SELF)
    ports = {peer.vxlan_port: peer.blanket for peer in PEERS}
    for device, mac, ip in wanted.filter.remote:
        about = [one for one in told if (one.mac, one.ip) == (mac, ip)]
        highest = max(one.epoch for one in about)
        speaker = ports[int(device.split("-")[1])]
        assert any(one.blanket == speaker for one in about if one.epoch == highest)
    senders = [(mac, ip) for _, mac, ip in wanted.filter.remote]
    assert len(senders) == len(set(senders)), "one sender from two peers"


@given(st.lists(locations, max_size=30))
def test_frames_go_only_where_they_are_heard_from(told: list[Location]) -> None:
    wanted = plan(_known(told), blanket=SELF)
    for segment in wanted.segments.values():
        devices = {link.device for link in segment.links}
        assert set(segment.forwarding.values()) <= devices
        heard = {(mac, device) for device, mac, _ in wanted.filter.remote if device in devices}
        assert set(segment.forwarding.items()) == heard


@given(st.lists(locations, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_epochs_counts_not_the_order_of_arrival(told: list[Location], random: object) -> None:
    # Of one epoch there is one holder: the store gives each epoch once.
    once = list({(one.instance, one.network, one.epoch): one for one in told}.values())
    shuffled = list(once)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(_known(once), blanket=SELF).filter == plan(_known(shuffled), blanket=SELF).filter


@given(st.lists(locations, max_size=12), st.lists(locations, max_size=12))
def test_a_whole_mesh_takes_no_location_back_to_a_lower_epoch(
    told: list[Location], late: list[Location]
) -> None:
    known = _known(told)
    mesh = replace(MESH, generation=2, locations=_distinct(late))
    after = {(one.instance, one.network): one.epoch for one in told_mesh(known, mesh).locations}
    assert set(after) == {(one.instance, one.network) for one in late}
    for one in known.locations:
        if (key := (one.instance, one.network)) in after:
            assert after[key] >= one.epoch


def test_an_older_mesh_is_ignored() -> None:
    known = told_mesh(NOTHING, replace(MESH, generation=5))
    assert told_mesh(known, MESH) is known


def test_the_same_epoch_may_withdraw_but_not_move() -> None:
    there = _location(1, 0, PEERS[0].blanket, 3)
    known = _known([there])
    moved = told_location(known, replace(there, blanket=PEERS[1].blanket))
    assert moved.locations == (there,)
    assert plan(told_location(known, replace(there, blanket=None)), blanket=SELF).filter.remote == frozenset()


def _port(location: Location) -> InstancePort:
    return InstancePort(
        instance=location.instance,
        device="t123456789abc",
        network=location.network,
        mac=location.mac,
        ip=location.ip,
    )


def test_a_waiting_port_draws_no_frames_until_the_location_is_here() -> None:
    there = _location(1, 0, PEERS[0].blanket, 3)
    known = plugged(_known([there]), _port(there))
    network = NETWORKS[0].id
    before = plan(known, blanket=SELF).segments[network]
    assert before.forwarding[there.mac] == link_device(PEERS[0].vxlan_port, network)
    assert before.taps == ("t123456789abc",)
    here = told_location(known, replace(there, blanket=SELF, epoch=4))
    assert plan(here, blanket=SELF).segments[network].forwarding[there.mac] == "t123456789abc"
    assert unplugged(here, there.instance).ports == ()


@pytest.mark.parametrize("ip", ["10.1.0.1", "10.1.0.0", "10.1.0.255", "10.2.0.9", "100.64.0.2"])
def test_a_port_gets_no_address_that_is_not_its_networks_to_give(ip: str) -> None:
    with pytest.raises(InvalidInput):
        plugged(_known([]), replace(_port(_location(1, 0, None, 0)), ip=ip))


@pytest.mark.parametrize(
    "mesh",
    [
        replace(MESH, peers=(PEERS[0], replace(PEERS[1], address=PEERS[0].address))),
        replace(MESH, peers=(PEERS[0], replace(PEERS[1], vxlan_port=PEERS[0].vxlan_port))),
        replace(MESH, peers=(PEERS[0], replace(PEERS[1], keys=PEERS[0].keys))),
        replace(MESH, peers=(replace(PEERS[0], blanket=SELF),)),
        replace(MESH, peers=(replace(PEERS[0], address="10.0.0.1"),)),
        replace(
            MESH, networks=(NETWORKS[0], replace(NETWORKS[1], cidr="10.1.0.128/25", gateway="10.1.0.129"))
        ),
        replace(MESH, networks=(replace(NETWORKS[0], gateway="10.9.0.1"),)),
        replace(MESH, networks=(replace(NETWORKS[0], vni=1 << 24),)),
        replace(MESH, networks=(replace(NETWORKS[0], cidr="10.1.0.7/24"),)),
        replace(
            MESH,
            locations=(
                _location(1, 0, None, 0),
                replace(_location(2, 0, None, 0), mac=_location(1, 0, None, 0).mac),
            ),
        ),
    ],
)
def test_a_mesh_that_contradicts_itself_is_refused(mesh: Mesh) -> None:
    with pytest.raises(InvalidInput):
        plan(told_mesh(NOTHING, mesh), blanket=SELF)


@given(st.integers(1, 65535), st.uuids(version=4))
def test_device_names_fit_the_kernel_and_addresses_are_local(port: int, network: object) -> None:
    names = (link_device(port, str(network)), bridge_device(str(network)))
    assert all(len(name) <= 15 for name in names)
    first = int(gateway_mac(str(network)).split(":")[0], 16)
    assert first & 0b11 == 0b10, "locally administered, not multicast"


def test_knowledge_survives_its_file() -> None:
    from supercloud.blanket.overlay.driver import _KNOWLEDGE

    there = _location(1, 0, PEERS[0].blanket, 3)
    known = plugged(_known([there]), _port(there))
    assert _KNOWLEDGE.validate_json(_KNOWLEDGE.dump_json(known)) == known
    assert json.loads(_KNOWLEDGE.dump_json(known))["mesh"]["generation"] == 1
