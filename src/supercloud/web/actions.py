"""What can be done to a thing from its page: each under the permission that the API needs for the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from supercloud.model.names import Name, SizeBytes
from supercloud.model.permissions import Permission
from supercloud.model.states import JOINED, BlanketState, InstanceState
from supercloud.model.trust import TrustState
from supercloud.ports.agent import StopMode
from supercloud.services.requests import Ref
from supercloud.web.ask import Ask
from supercloud.web.deed import Action, fixed
from supercloud.web.domains import DOMAIN_ACTIONS
from supercloud.web.evidence import EVIDENCE_ACTIONS
from supercloud.web.forms import Field, Form, checked, chosen, counted, named, size, ticked, written
from supercloud.web.going_back import GOING_BACK_ACTIONS
from supercloud.web.incidents import INCIDENT_ACTIONS
from supercloud.web.principals import PRINCIPAL_ACTIONS
from supercloud.web.security import SECURITY_ACTIONS

_P, _I = Permission, InstanceState


def _in(*states: StrEnum) -> Callable[[Any], bool]:
    return lambda view: view.state in states


# ---------------------------------------------------------------- what has to be said first


async def _targets(ask: Ask, view: Any) -> tuple[Field, ...]:
    """Where a migration may go to."""
    blankets = await ask.some(_P.BLANKET_READ, lambda control: control.blankets(cloud=view.cloud_id))
    there = [one for one in blankets if one.id != view.blanket_id and one.state in JOINED]
    return (
        chosen(
            "to", "To blanket", [(one.id, f"{one.name} ({one.provider})") for one in there], required=True
        ),
    )


async def _instances(ask: Ask, view: Any) -> tuple[Field, ...]:
    """What a volume may be attached to."""
    found = await ask.some(_P.VM_READ, lambda control: control.instances(cloud=view.cloud_id))
    return (chosen("instance", "To instance", named(found), required=True),)


async def _larger(_ask: Ask, view: Any) -> tuple[Field, ...]:
    """A volume grows, and never shrinks."""
    now = -(-view.size_bytes >> 30)
    return (counted("size_gib", "Size, GiB", least=now, most=1 << 19, value=str(now), required=True),)


_MODES = fixed(
    chosen("mode", "How", ((StopMode.SHUTDOWN, "shut it down"), (StopMode.DESTROY, "pull the plug")))
)
_SNAPSHOT = fixed(Field(name="snapshot", label="Name of the snapshot", required=True))
_IMAGE = fixed(Field(name="image", label="Name of the image", required=True))


def _force(label: str) -> Any:
    return fixed(Field(name="force", label=label, kind="box"))


def _mode(form: Form) -> StopMode:
    mode: StopMode = checked(StopMode, written(form, "mode") or StopMode.SHUTDOWN, "how")
    return mode


def _ref(form: Form, field: str) -> Ref:
    ref: Ref = checked(Ref, written(form, field), field)
    return ref


def _name(form: Form, field: str) -> Name:
    name: Name = checked(Name, written(form, field), field)
    return name


def _bytes(form: Form) -> SizeBytes:
    found: SizeBytes = checked(SizeBytes, size(form, "size_gib"), "size")
    return found


# ---------------------------------------------------------------- the table

_ACTIONS = (
    Action("instances", "start", "Start", _P.VM_RUN, lambda control, ref, _: control.start_instance(ref),
        when=_in(_I.STOPPED, _I.FENCED, _I.FAILED, _I.PAUSED)),
    Action("instances", "migrate", "Migrate", _P.VM_MIGRATE,
        lambda control, ref, form: control.migrate_instance(ref, to=_ref(form, "to")),
        when=_in(_I.RUNNING), fields=_targets),
    Action("instances", "reboot", "Reboot", _P.VM_RUN,
        lambda control, ref, _: control.reboot_instance(ref), when=_in(_I.RUNNING), grave=True),
    Action("instances", "scan", "Scan memory", _P.VM_RUN,
        lambda control, ref, _: control.scan_instance(ref), when=_in(_I.RUNNING, _I.PAUSED)),
    Action("instances", "stop", "Stop", _P.VM_RUN,
        lambda control, ref, form: control.stop_instance(ref, mode=_mode(form)),
        when=_in(_I.RUNNING, _I.PAUSED), fields=_MODES, grave=True),
    Action("instances", "remove", "Remove", _P.VM_RUN,
        lambda control, ref, form: control.remove_instance(ref, force=ticked(form, "force")),
        fields=_force("even while it runs"),
        loses="The volume that it boots from goes with it, and its keys, for good."),
    Action("blankets", "start", "Start", _P.BLANKET_WRITE,
        lambda control, ref, _: control.start_blanket(ref),
        when=lambda view: not view.connected and view.state is not BlanketState.REVOKED),
    Action("blankets", "stop", "Stop", _P.BLANKET_WRITE, lambda control, ref, _: control.stop_blanket(ref),
        when=lambda view: view.connected, grave=True),
    Action("blankets", "upgrade", "Upgrade", _P.BLANKET_WRITE,
        lambda control, ref, _: control.upgrade_blanket(ref), when=lambda view: view.connected),
    Action("blankets", "remove", "Remove", _P.BLANKET_WRITE,
        lambda control, ref, form: control.remove_blanket(ref, force=ticked(form, "force")),
        fields=_force("even while instances are in it"),
        loses="Its VM ends, and its disk is deleted with whatever is on it."),
    Action("volumes", "attach", "Attach", _P.VOLUME_WRITE,
        lambda control, ref, form: control.attach_volume(ref, instance=_ref(form, "instance")),
        when=lambda view: view.instance is None, fields=_instances),
    Action("volumes", "detach", "Detach", _P.VOLUME_WRITE,
        lambda control, ref, _: control.detach_volume(ref), when=lambda view: view.instance is not None,
        grave=True),
    Action("volumes", "resize", "Resize", _P.VOLUME_WRITE,
        lambda control, ref, form: control.resize_volume(ref, size_bytes=_bytes(form)),
        fields=_larger),
    Action("volumes", "snapshot", "Snapshot", _P.VOLUME_WRITE,
        lambda control, ref, form: control.snapshot_volume(ref, snapshot=_name(form, "snapshot")),
        fields=_SNAPSHOT),
    Action("volumes", "backup", "Back up", _P.VOLUME_WRITE,
        lambda control, ref, form: control.back_up_volume(ref, image=_name(form, "image")), fields=_IMAGE),
    Action("volumes", "remove", "Remove", _P.VOLUME_WRITE,
        lambda control, ref, _: control.remove_volume(ref),
        loses="What is on it is gone, and its keys, for good."),
    Action("networks", "remove", "Remove", _P.NETWORK_WRITE,
        lambda control, ref, _: control.remove_network(ref), loses="One that an instance uses stays."),
    Action("images", "remove", "Remove", _P.IMAGE_WRITE, lambda control, ref, _: control.remove_image(ref),
        loses="Its bytes are deleted. One that a volume is based on stays."),
    Action("clouds", "rotate-keys", "Rotate keys", _P.CLOUD_WRITE,
        lambda control, ref, _: control.rotate_keys(ref)),
    Action("clouds", "remove", "Remove", _P.CLOUD_WRITE, lambda control, ref, _: control.remove_cloud(ref),
        loses="One that has anything in it stays."),
    Action("providers", "accept", "Accept", _P.PROVIDER_WRITE,
        lambda control, ref, _: control.accept_provider(ref), when=lambda view: not view.accepted),
    Action("providers", "drain", "Drain", _P.PROVIDER_WRITE,
        lambda control, ref, _: control.drain_provider(ref), when=lambda view: not view.draining,
        grave=True),
    Action("providers", "undrain", "Undrain", _P.PROVIDER_WRITE,
        lambda control, ref, _: control.undrain_provider(ref), when=lambda view: view.draining),
    Action("providers", "remove", "Remove", _P.PROVIDER_WRITE,
        lambda control, ref, _: control.remove_provider(ref),
        loses="Nobody can add a blanket there any more. One that has blankets stays."),
    Action("operations", "cancel", "Cancel", _P.OPERATION_CANCEL,
        lambda control, ref, _: control.cancel(ref), when=lambda view: view.ended_at is None, grave=True),
    Action("trust", "revoke", "Revoke", _P.TRUST_WRITE, lambda control, ref, _: control.revoke_trust(ref),
        when=_in(TrustState.ACTIVE),
        loses="It ends now, with all that was made from it. What runs goes on; nothing begins any more."),
)  # fmt: skip
#: By the path of the kind of thing, and name.
ACTIONS: Mapping[tuple[str, str], Action] = {
    (one.of, one.name): one
    for one in (
        *_ACTIONS,
        *GOING_BACK_ACTIONS,
        *INCIDENT_ACTIONS,
        *EVIDENCE_ACTIONS,
        *SECURITY_ACTIONS,
        *PRINCIPAL_ACTIONS,
        *DOMAIN_ACTIONS,
    )
}


def offered(ask: Ask, collection: str, view: Any) -> list[Action]:
    """What may be done to a thing, as it is and as far as the session's token goes."""
    return [
        one for one in ACTIONS.values() if one.of == collection and one.when(view) and ask.may(one.permission)
    ]
