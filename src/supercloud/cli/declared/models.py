"""What may stand in the file: the API's requests, as people write them.

Every rule is the API's own: scalars of `model.names` and `services.northbound`, checks of `services.rules`,
defaults of the requests. A thing's name is its key, and its cloud is the file's. What is left out is the
default, and where there is no fixed one (`cpuModel`, `blanket`, `disk`) anything is as declared. How a size
or a port is written is in `written`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from supercloud.cli.declared.part import Part
from supercloud.cli.declared.trusted import Trust
from supercloud.cli.declared.written import (
    MaxCost,
    Memory,
    Option,
    Port,
    QuotaDisk,
    QuotaMemory,
    Size,
    default_of,
    ruled,
)
from supercloud.model import levels
from supercloud.model.levels import Demand, Level, Thing
from supercloud.model.names import MIB, Cidr, Name, Text, Vcpus
from supercloud.model.placement import (
    Amount,
    Apart,
    Confidentiality,
    Currency,
    Location,
    Names,
    Placement,
    Price,
)
from supercloud.model.quota import UNLIMITED, Count, Quota
from supercloud.model.right import RightTerms
from supercloud.model.units import format_size
from supercloud.ports.platform import Flavour
from supercloud.services import rules
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CpuModel,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    ImageRef,
    OptionName,
    PlatformKind,
    Publish,
    RunInstance,
    Seconds,
    SshKey,
)
from supercloud.trust import userdata

VERSION = 1


class CloudQuota(Part):
    """The most that it may have of each; what is left out has no bound."""

    vcpus: Count | None = None
    """Virtual CPUs of all its instances."""
    memory: QuotaMemory | None = None
    """Memory of all its instances, e.g. 8G."""
    disk: QuotaDisk | None = None
    """Size of all its volumes, e.g. 100G."""
    blankets: Count | None = None
    """How many blankets."""
    domains: Count | None = None
    """In how many domains they are."""

    def request(self) -> Quota:
        return Quota(
            vcpus=self.vcpus,
            memory_mib=self.memory,
            disk_bytes=self.disk,
            blankets=self.blankets,
            domains=self.domains,
        )


class Cloud(Part):
    """The cloud and the terms of its run rights."""

    name: Name
    """What it is called."""
    parent: Name | None = Field(default=None, alias="in")
    """The cloud that it is made within, of whose quota its own is a slice."""
    quota: CloudQuota | None = None
    """What it may have at most; left out, whatever it has, and no bound for a new one."""
    cpu_model: CpuModel | None = None
    """The baseline CPU of every instance; left out, whatever the control plane has chosen."""
    right_length: Seconds = default_of(CreateCloud, "right_length_s")
    """Seconds that a run right lasts; a control plane may be away for nearly that long."""
    right_margin: Seconds = default_of(CreateCloud, "right_margin_s")
    """Seconds beyond that before the right may move to another blanket."""
    right_grace: Seconds = default_of(CreateCloud, "right_grace_s")
    """Seconds that an instance without a right stays paused before it is stopped."""

    @field_validator("right_length", "right_margin", "right_grace")
    @classmethod
    def _can_be_kept(cls, value: float, info: ValidationInfo) -> float:
        terms: dict[str, Any] = {f"{str(info.field_name).removeprefix('right_')}_s": value}
        ruled(lambda: RightTerms(**terms).check())
        return value

    def request(self) -> CreateCloud:
        return CreateCloud(
            name=self.name,
            cpu_model=self.cpu_model,
            right_length_s=self.right_length,
            right_margin_s=self.right_margin,
            right_grace_s=self.right_grace,
            parent=self.parent,
            quota=UNLIMITED if self.quota is None else self.quota.request(),
        )


class ProviderPrice(Part):
    """Of an hour of an instance."""

    currency: Currency
    """Of both prices, by ISO 4217, e.g. EUR."""
    vcpu_hour: Amount = default_of(Price, "vcpu_hour")
    """Of a vCPU, as text, e.g. "0.012"."""
    gib_hour: Amount = default_of(Price, "gib_hour")
    """Of a GiB of memory, as text."""

    def request(self) -> Price:
        return Price(currency=self.currency, vcpu_hour=self.vcpu_hour, gib_hour=self.gib_hour)


class Provider(Part):
    """A domain with its platform."""

    kind: PlatformKind
    """Of its platform: qemu, or simulated for trying things out."""
    options: Annotated[dict[OptionName, Option], Field(max_length=64)] = Field(default_factory=dict)
    """For the platform's driver, as `supercloud provider add --option` takes them."""
    location: Location | None = None
    """Where it is, from the large to the small, e.g. de-by; left out, whatever it says of itself."""
    price: ProviderPrice | None = None
    """What it costs; left out, whatever it says of itself."""

    def request(self, name: str) -> AddProvider:
        price = None if self.price is None else self.price.request()
        options = dict(self.options)
        return AddProvider(name=name, kind=self.kind, options=options, location=self.location, price=price)


class Blanket(Part):
    """A hypervisor of your own, on a provider's platform or inside another blanket (one of the two)."""

    provider: Name | None = None
    """The domain whose platform runs it."""
    parent: Name | None = Field(default=None, alias="in")
    """The blanket that it is inside of: one of this file, or of a cloud around this one by its id."""
    flavour: Flavour = default_of(AddBlanket, "flavour")
    """Its hypervisor; live migration needs the same one at both ends."""
    vcpus: Vcpus = default_of(AddBlanket, "vcpus")
    """Virtual CPUs of the whole blanket."""
    memory: Memory = default_of(AddBlanket, "memory_mib")
    """Memory of the whole blanket, e.g. 2G; instances take theirs from it."""
    disk: Size = default_of(AddBlanket, "disk_bytes")
    """Disk for images and volumes, e.g. 20G; it grows as it is used."""
    debug_shell: bool = default_of(AddBlanket, "debug_shell")
    """Root on its console, for you and for whoever runs the platform."""

    def request(self, name: str, cloud: str) -> AddBlanket:
        return AddBlanket(
            name=name,
            cloud=cloud,
            provider=self.provider,
            parent=self.parent,
            flavour=self.flavour,
            vcpus=self.vcpus,
            memory_mib=self.memory,
            disk_bytes=self.disk,
            debug_shell=self.debug_shell,
        )


class Network(Part):
    """An encrypted network over all blankets of the cloud."""

    cidr: Cidr
    """A private IPv4 network of /16 to /28, e.g. 10.20.0.0/24; its first address is the gateway."""
    level: Level | None = None
    """Its security level; left out, whatever it has, and the lowest for a new one."""

    @field_validator("cidr")
    @classmethod
    def _is_a_network(cls, value: str) -> str:
        return str(ruled(lambda: rules.check_network(value)))

    def request(self, name: str, cloud: str) -> CreateNetwork:
        return CreateNetwork(name=name, cloud=cloud, cidr=self.cidr, level=self.level)


class Volume(Part):
    """An encrypted disk. An instance's `volumes` say who has it."""

    size: Size
    """What a guest sees, e.g. 10G; it can grow."""
    image: ImageRef | None = None
    """Begin as a copy of this image instead of empty; CLOUD/IMAGE is one that this cloud shares."""
    blanket: Name | None = None
    """Where it is made; left out, where it is first attached."""
    level: Level | None = None
    """Its security level; left out, whatever it has, and the lowest for a new one."""

    @field_validator("size")
    @classmethod
    def _is_whole(cls, value: int) -> int:
        return ruled(lambda: rules.check_volume_size(value))

    def request(self, name: str, cloud: str) -> CreateVolume:
        return CreateVolume(
            name=name,
            cloud=cloud,
            size_bytes=self.size,
            on=self.blanket,
            image=self.image,
            level=self.level,
        )


class InstancePlacement(Part):
    """Where an instance may be. What is left out is not asked."""

    domains: Names = ()
    """Only in these domains, by their providers' names."""
    not_domains: Names = ()
    """In none of these domains."""
    locations: Names = ()
    """Only in these places; `de` has `de-by` in it, too."""
    max_cost: MaxCost | None = None
    """Only where an hour of it costs at most this, e.g. 0.05 EUR."""
    confidentiality: Confidentiality | None = None
    """Only on platforms that are this confidential, or more."""
    apart_from: Names = ()
    """Instances, or groups of them, that it does not share a blanket with."""
    apart_by: Apart = Apart.BLANKET
    """What it does not share with those."""

    @field_validator("not_domains")
    @classmethod
    def _are_not_allowed(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        ruled(lambda: Placement(domains=info.data.get("domains", ()), not_domains=value).check(""))
        return value

    def request(self) -> Placement:
        return Placement(
            domains=self.domains,
            not_domains=self.not_domains,
            locations=self.locations,
            max_cost=self.max_cost,
            confidentiality=self.confidentiality,
            apart_from=self.apart_from,
            apart_by=self.apart_by,
        )


class Instance(Part):
    """A VM."""

    image: ImageRef
    """What it boots: the name or the digest of an image, or CLOUD/IMAGE, one that this cloud shares."""
    blanket: Name | None = None
    """Where it runs; another one here moves it there, live. Left out, wherever there is room."""
    memory: Memory = default_of(RunInstance, "memory_mib")
    """Its memory, e.g. 512M."""
    vcpus: Vcpus = default_of(RunInstance, "vcpus")
    """Its virtual CPUs."""
    disk: Size | None = None
    """Size of its boot volume, which can grow; left out, the image's own."""
    networks: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Its networks, in the order of its interfaces."""
    publish: Annotated[tuple[Port, ...], Field(max_length=64)] = ()
    """TCP ports of it, PORT or PORT_HERE:PORT, reachable on the control plane's loopback."""
    volumes: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Its further disks, in this order."""
    user_data: Text | None = None
    """cloud-init user data, of the first boot; encrypted before it leaves this machine."""
    user_data_file: Annotated[str, Field(pattern=r"^[^\x00]+$", max_length=4096)] | None = None
    """A file with cloud-init user data, in this file's folder or below."""
    ssh_keys: Annotated[tuple[SshKey, ...], Field(max_length=64)] = ()
    """Lines as in an authorized_keys file."""
    hold: bool = default_of(RunInstance, "hold")
    """Run on while nobody can be reached; failing over then needs proof that the old copy is dead."""
    level: Level | None = None
    """Its security level, and its boot volume's; left out, whatever it has, and the lowest for a new one."""
    group: Name | None = None
    """The group that it belongs to, which moves together."""
    placement: InstancePlacement = InstancePlacement()
    """Where it may be."""

    @field_validator("disk")
    @classmethod
    def _is_whole(cls, value: int | None) -> int | None:
        return None if value is None else ruled(lambda: rules.check_volume_size(value))

    @field_validator("networks")
    @classmethod
    def _are_few(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        ruled(lambda: rules.check_networks(value, ()))
        return value

    @field_validator("publish")
    @classmethod
    def _can_be_reached(cls, value: tuple[Publish, ...], info: ValidationInfo) -> tuple[Publish, ...]:
        ruled(lambda: rules.check_ports(value))
        if "networks" in info.data:
            ruled(lambda: rules.check_networks(info.data["networks"], value))
        return value

    @field_validator("volumes")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a volume is in the list twice")
        return value

    @field_validator("level")
    @classmethod
    def _can_have_it(cls, value: Level | None, info: ValidationInfo) -> Level | None:
        if value is not None:
            own = levels.own_facts(hold=info.data.get("hold", False))
            demand = Demand(thing=Thing.INSTANCE, name="it", level=value, own=own)
            ruled(lambda: levels.check_own(demand))
        return value

    @field_validator("user_data")
    @classmethod
    def _fits(cls, value: str | None) -> str | None:
        if value is not None:
            ruled(lambda: userdata.check_size(value.encode()))
        return value

    @field_validator("user_data_file")
    @classmethod
    def _is_the_only_one(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("user_data") is not None:
            raise ValueError("there is `userData` as well")
        return value

    def request(self, name: str, cloud: str) -> RunInstance:
        """But for its user data, which is encrypted for each request anew."""
        return RunInstance(
            name=name,
            cloud=cloud,
            image=self.image,
            on=self.blanket,
            memory_mib=self.memory,
            vcpus=self.vcpus,
            disk_bytes=self.disk,
            networks=self.networks,
            publish=self.publish,
            ssh_keys=self.ssh_keys,
            hold=self.hold,
            group=self.group,
            placement=self.placement.request(),
            level=self.level,
        )


class CloudFile(Part):
    """A whole cloud of supercloud's. Each section is a kind of thing, each key in it a name."""

    version: Annotated[int, WithJsonSchema({"type": "integer", "const": VERSION})]
    """Of this format: 1."""
    cloud: Cloud
    providers: dict[Name, Provider] = Field(default_factory=dict)
    """Domains to be added where they are missing; those that are there need not be listed."""
    blankets: dict[Name, Blanket] = Field(default_factory=dict)
    """Hypervisors of your own, on providers' platforms."""
    networks: dict[Name, Network] = Field(default_factory=dict)
    """Encrypted networks over all blankets."""
    volumes: dict[Name, Volume] = Field(default_factory=dict)
    """Encrypted disks, but those that instances boot from."""
    instances: dict[Name, Instance] = Field(default_factory=dict)
    """VMs."""
    trust: dict[Name, Trust] = Field(default_factory=dict)
    """What other clouds may do; the names are this file's own."""

    @field_validator("version")
    @classmethod
    def _is_ours(cls, value: int) -> int:
        if value != VERSION:
            raise ValueError(f"this is version {value} of the format, and version {VERSION} is read")
        return value


#: Sections of things by name. A further kind of thing is a class, a section above, and a part of the plan.
SECTIONS: Mapping[str, type[Part]] = {
    "providers": Provider,
    "blankets": Blanket,
    "networks": Network,
    "volumes": Volume,
    "instances": Instance,
    "trust": Trust,
}


def part_at(path: tuple[str | int, ...]) -> type[Part] | None:
    """The model of the mapping at `path`, if it has one."""
    match path:
        case ():
            return CloudFile
        case ("cloud",):
            return Cloud
        case (str(section), _):
            return SECTIONS.get(section)
        case ("providers", _, "price"):
            return ProviderPrice
        case ("instances", _, "placement"):
            return InstancePlacement
    return None


def filled(data: Any) -> Any:
    """With a section whose entries were all commented out as the empty one that it is."""
    if not isinstance(data, dict):
        return data
    return {key: {} if key in SECTIONS and one is None else one for key, one in data.items()}


def keys_of(part: type[BaseModel]) -> dict[str, str]:
    """Keys that may stand there, each with what it is for."""
    return {field.alias or name: field.description or "" for name, field in part.model_fields.items()}


def json_schema() -> dict[str, Any]:
    """For editors: JSON Schema, draft 2020-12."""
    schema = CloudFile.model_json_schema()
    named = [schema["properties"][name] for name in SECTIONS]
    for section in named:
        section["type"] = ["object", "null"]
    parts = schema["$defs"]
    for mapping in (*named, parts["Provider"]["properties"]["options"]):
        mapping["additionalProperties"] = False  # beside those whose names fit
    for part, key, unit in (("Blanket", "memory", MIB), ("Blanket", "disk", 1), ("Instance", "memory", MIB)):
        field = parts[part]["properties"][key]
        field["default"] = format_size(field["default"] * unit)
    parts["Blanket"]["oneOf"] = [
        {"required": [around], "properties": {around: {"type": "string"}}} for around in ("provider", "in")
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:supercloud:schema:cloud:{VERSION}",
        **schema,
        "title": "A cloud of supercloud's",
    }
