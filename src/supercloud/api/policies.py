"""Policies of clouds and of blankets over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from supercloud.api.bodies import Router
from supercloud.api.guard import PolicyRead, PolicyWrite
from supercloud.api.things import InCloud, RefPath
from supercloud.services.incident_views import ImportedView, ImportIndicators
from supercloud.services.policy_views import (
    CloudPolicyView,
    PolicyView,
    RollBack,
    SetPolicy,
    VersionView,
)

#: What the cloud does over all of its blankets, in the place of what each of them does.
_Horizontal = Annotated[bool, Query()]


def routers() -> tuple[APIRouter, ...]:
    return _of_clouds(), _of_blankets()


def _of_clouds() -> APIRouter:
    router = Router(prefix="/clouds", tags=["policies"])

    @router.get("/{ref}/policy")
    async def show(control: PolicyRead, ref: RefPath, horizontal: _Horizontal = False) -> CloudPolicyView:
        """And which blankets go by it."""
        return await control.cloud_policy(ref, horizontal=horizontal)

    @router.put("/{ref}/policy")
    async def apply(
        control: PolicyWrite, ref: RefPath, request: SetPolicy, horizontal: _Horizontal = False
    ) -> CloudPolicyView:
        """Of each blanket of the cloud that has none of its own: of those that are connected at once, of each
        other one as it connects."""
        return await control.set_cloud_policy(ref, request, horizontal=horizontal)

    @router.delete("/{ref}/policy")
    async def clear(control: PolicyWrite, ref: RefPath, horizontal: _Horizontal = False) -> CloudPolicyView:
        """Blankets tell, and do nothing, as before one was set."""
        return await control.clear_cloud_policy(ref, horizontal=horizontal)

    @router.get("/{ref}/policy/versions")
    async def versions(
        control: PolicyRead, ref: RefPath, horizontal: _Horizontal = False
    ) -> list[VersionView]:
        """The newest first, the last hundred."""
        return await control.cloud_policy_versions(ref, horizontal=horizontal)

    @router.post("/{ref}/policy/rollback")
    async def roll_back(
        control: PolicyWrite, ref: RefPath, request: RollBack, horizontal: _Horizontal = False
    ) -> CloudPolicyView:
        """An earlier version again, as a new one."""
        return await control.roll_back_cloud_policy(ref, request, horizontal=horizontal)

    @router.post("/{ref}/indicators")
    async def indicators(control: PolicyWrite, ref: RefPath, request: ImportIndicators) -> ImportedView:
        """Addresses that somebody shared, for the cloud's horizontal policy to decide about
        (`rule: shared-indicator`). What of the bundle is not used is said, and why."""
        return await control.import_indicators(ref, request)

    return router


def _of_blankets() -> APIRouter:
    router = Router(prefix="/blankets", tags=["policies"])

    @router.get("/{ref}/policy")
    async def show(control: PolicyRead, ref: RefPath, cloud: InCloud = None) -> PolicyView:
        """As the blanket has it."""
        return await control.policy(ref, cloud=cloud)

    @router.put("/{ref}/policy")
    async def apply(
        control: PolicyWrite, ref: RefPath, request: SetPolicy, cloud: InCloud = None
    ) -> PolicyView:
        """What its loop does by itself from now on, with the control plane away too, in the place of what its
        cloud's policy says."""
        return await control.set_policy(ref, request, cloud=cloud)

    @router.delete("/{ref}/policy")
    async def clear(control: PolicyWrite, ref: RefPath, cloud: InCloud = None) -> PolicyView:
        """It goes by its cloud's again."""
        return await control.clear_policy(ref, cloud=cloud)

    @router.get("/{ref}/policy/versions")
    async def versions(control: PolicyRead, ref: RefPath, cloud: InCloud = None) -> list[VersionView]:
        """Of its own, the newest first, the last hundred."""
        return await control.policy_versions(ref, cloud=cloud)

    @router.post("/{ref}/policy/rollback")
    async def roll_back(
        control: PolicyWrite, ref: RefPath, request: RollBack, cloud: InCloud = None
    ) -> PolicyView:
        """An earlier version of its own again, as a new one."""
        return await control.roll_back_policy(ref, request, cloud=cloud)

    return router
