"""What a request has to keep to beyond its types. Pure, so that who writes a request can check it as well.

Raises, all of these: InvalidInput, with the rule.
"""

from __future__ import annotations

import ipaddress

from supercloud.model import levels
from supercloud.model.errors import InvalidInput
from supercloud.model.levels import Demand, Level, Thing
from supercloud.model.names import MIB, Cidr, Name, SizeBytes
from supercloud.ports.agent import NICS
from supercloud.services.requests import Publish, RunInstance
from supercloud.trust import userdata

NETWORKS = f"an instance is in at most {NICS} networks, each once"

_PRIVATE = tuple(ipaddress.IPv4Network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
#: The blankets' own NAT network, which instances must be able to tell from theirs.
_RESERVED = (ipaddress.IPv4Network("10.0.2.0/24"),)


def check_network(cidr: Cidr) -> ipaddress.IPv4Network:
    """A private network of a sensible size."""
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise InvalidInput(f"{cidr} is not a network: {error}", hint="for example 10.9.0.0/24") from error
    if not any(network.subnet_of(private) for private in _PRIVATE) or not 16 <= network.prefixlen <= 28:
        raise InvalidInput(f"{cidr} is not a private network of /16 to /28", hint="for example 10.9.0.0/24")
    if any(network.overlaps(reserved) for reserved in _RESERVED):
        raise InvalidInput("10.0.2.0/24 is what blankets themselves live in", hint="for example 10.9.0.0/24")
    return network


def check_volume_size(size: SizeBytes) -> SizeBytes:
    if size < MIB or size % MIB:
        raise InvalidInput("a volume's size is a whole number of MiB, at least one")
    return size


def check_instance(request: RunInstance) -> None:
    if request.user_data is not None:
        userdata.check(request.user_data)
    check_networks(request.networks, request.publish)
    check_ports(request.publish)
    request.placement.check(request.name)
    levels.check_own(level_of(request))


def level_of(request: RunInstance) -> Demand:
    """What the instance itself demands of where it is."""
    own = levels.own_facts(hold=request.hold)
    return Demand(thing=Thing.INSTANCE, name=request.name, level=request.level or Level.OPEN, own=own)


def check_networks(networks: tuple[str, ...], publish: tuple[Publish, ...]) -> None:
    if len(networks) > NICS or len(set(networks)) != len(networks):
        raise InvalidInput(NETWORKS)
    if publish and not networks:
        raise InvalidInput("a published port needs a --network to reach the instance on")


def check_ports(publish: tuple[Publish, ...]) -> None:
    wanted = [one.at for one in publish if one.at]
    if len(set(wanted)) != len(wanted) or any(not 0 <= at <= 65535 for at in wanted):
        raise InvalidInput("published ports are 0 to 65535, each once")


def boot_volume(instance: Name) -> Name:
    """What the volume is called that an instance is made with, and boots from."""
    return f"{instance[:58]}-root"
