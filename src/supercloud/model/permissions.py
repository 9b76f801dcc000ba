"""What a token can allow, and which role allows what.

A permission is not called a right: that word is the run right's alone.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Role(StrEnum):
    """What a principal is to a control plane; a token's authority block carries its principal's roles."""

    OPERATOR = "operator"  # administers it: providers, principals
    OWNER = "owner"  # has clouds of its own
    PROVIDER = "provider"  # has domains of its own, and sees no cloud


class Permission(StrEnum):
    """`what:act`. Each operation of the API needs exactly one."""

    CLOUD_READ = "cloud:read"
    CLOUD_WRITE = "cloud:write"
    CLOUD_CREATE = "cloud:create"
    CLOUD_EXPORT = "cloud:export"  # with all that is in it, user data and ssh keys too
    BLANKET_READ = "blanket:read"
    BLANKET_WRITE = "blanket:write"
    BLANKET_CONSOLE = "blanket:console"
    BLANKET_TOOLS = "blanket:tools"  # let libvirt tools of one's own in, which are as good as root there
    NETWORK_READ = "network:read"
    NETWORK_WRITE = "network:write"
    VOLUME_READ = "volume:read"
    VOLUME_WRITE = "volume:write"
    VM_READ = "vm:read"
    VM_RUN = "vm:run"
    VM_MIGRATE = "vm:migrate"
    VM_CONSOLE = "vm:console"  # its console, its log, its ports
    TRUST_READ = "trust:read"
    TRUST_WRITE = "trust:write"  # let other clouds do something in it, and let that end
    FINDING_READ = "finding:read"
    INCIDENT_READ = "incident:read"
    INCIDENT_CLOSE = "incident:close"
    INCIDENT_ANSWER = "incident:answer"  # allow or refuse a reaction that asks first
    INCIDENT_EVIDENCE = "incident:evidence"  # fetch what was kept, which only the owner can open; remove it
    POLICY_READ = "policy:read"
    POLICY_WRITE = "policy:write"  # say what blankets do by themselves about what is found
    ORDER_READ = "order:read"
    ORDER_WRITE = "order:write"  # have a provider do something to a machine of its
    ACT_READ = "act:read"
    ACT_DECIDE = "act:decide"  # refuse a privileged act that a provider asks for
    OPERATION_READ = "operation:read"
    OPERATION_CANCEL = "operation:cancel"
    IMAGE_READ = "image:read"
    IMAGE_WRITE = "image:write"
    PROVIDER_READ = "provider:read"
    PROVIDER_WRITE = "provider:write"
    DOMAIN_READ = "domain:read"  # southbound: its own ones, their machines and health
    DOMAIN_WRITE = "domain:write"
    DOMAIN_REPORT = "domain:report"  # deliver findings: all that a sensor needs
    DOMAIN_ANSWER = "domain:answer"  # say what became of an order
    DOMAIN_ASK = "domain:ask"  # for a privileged act
    PRINCIPAL_READ = "principal:read"
    PRINCIPAL_WRITE = "principal:write"
    TOKEN_READ = "token:read"  # noqa: S105 - no password
    TOKEN_MINT = "token:mint"  # noqa: S105
    TOKEN_REVOKE = "token:revoke"  # noqa: S105
    WEB_SIGN_IN = "web:sign-in"  # a session in a browser, which has no key to prove

    @property
    def thing(self) -> str:
        return self.value.partition(":")[0]


#: About no cloud in particular, so that a token for one cloud does not allow them.
APART = frozenset(
    one
    for one in Permission
    if one is Permission.CLOUD_CREATE or one.thing in {"image", "provider", "domain", "principal", "token"}
)
#: Only with a token as it was minted: who got less than all must not be able to give itself more.
UNDIVIDED = frozenset({Permission.PRINCIPAL_WRITE, Permission.TOKEN_MINT})
_OPERATORS = frozenset({Permission.PROVIDER_WRITE, Permission.PRINCIPAL_WRITE})
_SOUTHBOUND = frozenset(one for one in Permission if one.thing == "domain")
_ITSELF = frozenset(one for one in Permission if one.thing == "token") | {Permission.PRINCIPAL_READ}
_GRANTS = {
    Role.OPERATOR: frozenset(Permission),
    Role.OWNER: frozenset(Permission) - _OPERATORS - _SOUTHBOUND,
    Role.PROVIDER: _SOUTHBOUND | _ITSELF | {Permission.WEB_SIGN_IN},
}
ALLOWED_BY = {
    one: frozenset(role for role in Role if one in _GRANTS[role]) for one in Permission
}  # permission -> the roles that allow it


def with_implied(only: frozenset[Permission]) -> frozenset[Permission]:
    """Whoever may change a thing may see it, and may follow what it asked for."""
    reads = {one for one in Permission if one.value.endswith(":read")}
    things = {one.thing for one in only}
    return only | {one for one in reads if one.thing in things} | {Permission.OPERATION_READ}


def allowed(
    roles: Collection[Role], *, only: Collection[Permission] | None = None, everywhere: bool = True
) -> frozenset[Permission]:
    """What a token allows its principal of these roles, as it was minted: to some permissions `only`, or for
    some clouds (not `everywhere`)."""
    every = frozenset(one for one in Permission if not ALLOWED_BY[one].isdisjoint(roles))
    if only is None and everywhere:
        return every
    left = every - UNDIVIDED if everywhere else every - UNDIVIDED - APART
    return left if only is None else left & with_implied(frozenset(only))
