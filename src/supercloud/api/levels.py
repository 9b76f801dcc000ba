"""Security levels over HTTP: of each thing under the permissions that reading and changing it takes."""

from __future__ import annotations

from fastapi import APIRouter

from supercloud.api.bodies import Router
from supercloud.api.guard import NetworkRead, NetworkWrite, VmRead, VmRun, VolumeRead, VolumeWrite
from supercloud.api.things import InCloud, RefPath
from supercloud.model.levels import Level, Thing
from supercloud.services.level_views import LevelChange, LevelView, SetLevel


def routers() -> list[APIRouter]:
    """One for each kind of thing. To read: what its level, or `level`, means, and what each place gives."""
    return [_instances(), _networks(), _volumes()]


def _instances() -> APIRouter:
    router = Router(prefix="/instances", tags=["levels"])

    @router.get("/{ref}/level")
    async def explain(
        control: VmRead, ref: RefPath, level: Level | None = None, cloud: InCloud = None
    ) -> LevelView:
        return await control.explain_level(Thing.INSTANCE, ref, level=level, cloud=cloud)

    @router.put("/{ref}/level")
    async def change(control: VmRun, ref: RefPath, request: SetLevel, cloud: InCloud = None) -> LevelChange:
        return await control.set_level(Thing.INSTANCE, ref, request, cloud=cloud)

    return router


def _networks() -> APIRouter:
    router = Router(prefix="/networks", tags=["levels"])

    @router.get("/{ref}/level")
    async def explain(
        control: NetworkRead, ref: RefPath, level: Level | None = None, cloud: InCloud = None
    ) -> LevelView:
        return await control.explain_level(Thing.NETWORK, ref, level=level, cloud=cloud)

    @router.put("/{ref}/level")
    async def change(
        control: NetworkWrite, ref: RefPath, request: SetLevel, cloud: InCloud = None
    ) -> LevelChange:
        return await control.set_level(Thing.NETWORK, ref, request, cloud=cloud)

    return router


def _volumes() -> APIRouter:
    router = Router(prefix="/volumes", tags=["levels"])

    @router.get("/{ref}/level")
    async def explain(
        control: VolumeRead, ref: RefPath, level: Level | None = None, cloud: InCloud = None
    ) -> LevelView:
        return await control.explain_level(Thing.VOLUME, ref, level=level, cloud=cloud)

    @router.put("/{ref}/level")
    async def change(
        control: VolumeWrite, ref: RefPath, request: SetLevel, cloud: InCloud = None
    ) -> LevelChange:
        return await control.set_level(Thing.VOLUME, ref, request, cloud=cloud)

    return router
