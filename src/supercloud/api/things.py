"""Providers, clouds, blankets, images, networks, volumes and instances over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, status

from supercloud.api.bodies import Router
from supercloud.api.guard import (
    BlanketRead,
    BlanketTools,
    BlanketWrite,
    CloudCreate,
    CloudExport,
    CloudRead,
    CloudWrite,
    ImageRead,
    ImageWrite,
    NetworkRead,
    NetworkWrite,
    ProviderRead,
    ProviderWrite,
    VmMigrate,
    VmRead,
    VmRun,
    VolumeRead,
    VolumeWrite,
)
from supercloud.api.pages import TEXT, TEXTS, Named, Paged
from supercloud.model.names import Digest, Name, SizeBytes
from supercloud.model.quota import Quota
from supercloud.model.states import BlanketState, InstanceState
from supercloud.ports.agent import StopMode
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    AdoptVm,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    MoveGroup,
    PlaceInstance,
    ProviderTerms,
    Ref,
    RegisterImage,
    RunInstance,
)
from supercloud.services.views import (
    BlanketView,
    CloudView,
    ForeignVmsView,
    ImageView,
    InstanceView,
    NetworkView,
    OperationView,
    ProviderView,
    ScanView,
    VolumeView,
    WantedCloud,
)

#: In a path.
RefPath = Annotated[Ref, Path()]
#: The cloud that tells two things of one name apart.
InCloud = Annotated[Ref | None, Query()]

_CREATED = status.HTTP_201_CREATED
_ACCEPTED = status.HTTP_202_ACCEPTED
_NO_CONTENT = status.HTTP_204_NO_CONTENT


#: The bytes are streamed to the disk, so no model describes them.
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    instance: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    size_bytes: SizeBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    snapshot: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Without a snapshot: to its image."""

    snapshot: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackUp:
    image: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    mode: StopMode = StopMode.SHUTDOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    to: Ref


def routers() -> list[APIRouter]:
    """All of them; order does not matter."""
    return [
        _providers(),
        _clouds(),
        _blankets(),
        _images(),
        _networks(),
        _volumes(),
        _instances(),
        _instances_run(),
    ]


def _providers() -> APIRouter:
    router = Router(prefix="/providers", tags=["providers"])

    @router.post("", status_code=_CREATED)
    async def add(control: ProviderWrite, request: AddProvider) -> ProviderView:
        return await control.add_provider(request)

    @router.get("")
    async def ls(control: ProviderRead, paging: Paged, name: Named = None) -> list[ProviderView]:
        return paging.answer(await control.providers(page=paging.page(TEXT, name=name)))

    @router.get("/{ref}")
    async def show(control: ProviderRead, ref: RefPath) -> ProviderView:
        return await control.provider(ref)

    @router.put("/{ref}/terms")
    async def terms(control: ProviderWrite, ref: RefPath, request: ProviderTerms) -> ProviderView:
        return await control.set_provider(ref, request)

    @router.post("/{ref}/drain", status_code=_ACCEPTED)
    async def drain(control: ProviderWrite, ref: RefPath) -> OperationView:
        return await control.drain_provider(ref)

    @router.post("/{ref}/accept")
    async def accept(control: ProviderWrite, ref: RefPath) -> ProviderView:
        """One that its provider has registered runs blankets from now on."""
        return await control.accept_provider(ref)

    @router.post("/{ref}/undrain")
    async def undrain(control: ProviderWrite, ref: RefPath) -> ProviderView:
        return await control.undrain_provider(ref)

    @router.delete("/{ref}", status_code=_NO_CONTENT)
    async def rm(control: ProviderWrite, ref: RefPath) -> Response:
        await control.remove_provider(ref)
        return Response(status_code=_NO_CONTENT)

    return router


def _clouds() -> APIRouter:
    router = Router(prefix="/clouds", tags=["clouds"])

    @router.post("", status_code=_CREATED)
    async def create(control: CloudCreate, request: CreateCloud) -> CloudView:
        return await control.create_cloud(request)

    @router.get("")
    async def ls(control: CloudRead, paging: Paged, name: Named = None) -> list[CloudView]:
        return paging.answer(await control.clouds(page=paging.page(TEXTS, name=name)))

    @router.get("/{ref}")
    async def show(control: CloudRead, ref: RefPath) -> CloudView:
        return await control.cloud(ref)

    @router.delete("/{ref}", status_code=_NO_CONTENT)
    async def rm(control: CloudWrite, ref: RefPath) -> Response:
        await control.remove_cloud(ref)
        return Response(status_code=_NO_CONTENT)

    @router.get("/{ref}/wanted")
    async def wanted(control: CloudExport, ref: RefPath) -> WantedCloud:
        return await control.wanted_cloud(ref)

    @router.put("/{ref}/quota")
    async def quota(control: CloudWrite, ref: RefPath, request: Quota) -> CloudView:
        return await control.set_quota(ref, request)

    @router.post("/{ref}/rotate-keys", status_code=_ACCEPTED)
    async def rotate(control: CloudWrite, ref: RefPath) -> OperationView:
        return await control.rotate_keys(ref)

    return router


def _blankets() -> APIRouter:
    router = Router(prefix="/blankets", tags=["blankets"])

    @router.post("", status_code=_ACCEPTED)
    async def add(control: BlanketWrite, request: AddBlanket) -> OperationView:
        return await control.add_blanket(request)

    @router.get("")
    async def ls(
        control: BlanketRead,
        paging: Paged,
        cloud: InCloud = None,
        name: Named = None,
        state: BlanketState | None = None,
    ) -> list[BlanketView]:
        page = paging.page(TEXTS, name=name, state=state)
        return paging.answer(await control.blankets(cloud=cloud, page=page))

    @router.get("/{ref}")
    async def show(control: BlanketRead, ref: RefPath, cloud: InCloud = None) -> BlanketView:
        return await control.blanket(ref, cloud=cloud)

    @router.delete("/{ref}", status_code=_ACCEPTED)
    async def rm(
        control: BlanketWrite, ref: RefPath, cloud: InCloud = None, force: bool = False
    ) -> OperationView:
        return await control.remove_blanket(ref, cloud=cloud, force=force)

    @router.post("/{ref}/start", status_code=_ACCEPTED)
    async def start(control: BlanketWrite, ref: RefPath, cloud: InCloud = None) -> OperationView:
        return await control.start_blanket(ref, cloud=cloud)

    @router.post("/{ref}/stop", status_code=_ACCEPTED)
    async def stop(
        control: BlanketWrite, ref: RefPath, cloud: InCloud = None, force: bool = False
    ) -> OperationView:
        return await control.stop_blanket(ref, cloud=cloud, force=force)

    @router.post("/{ref}/upgrade", status_code=_ACCEPTED)
    async def upgrade(control: BlanketWrite, ref: RefPath, cloud: InCloud = None) -> OperationView:
        return await control.upgrade_blanket(ref, cloud=cloud)

    @router.post("/{ref}/tools", status_code=_NO_CONTENT)
    async def tools(control: BlanketTools, ref: RefPath, cloud: InCloud = None) -> Response:
        """Let libvirt tools in; a WebSocket to the same path is a connection of theirs."""
        await control.let_tools_in(ref, cloud=cloud)
        return Response(status_code=_NO_CONTENT)

    @router.get("/{ref}/vms")
    async def vms(control: BlanketRead, ref: RefPath, cloud: InCloud = None) -> ForeignVmsView:
        return await control.foreign_vms(ref, cloud=cloud)

    return router


def _images() -> APIRouter:
    router = Router(prefix="/images", tags=["images"])

    @router.post("", status_code=_CREATED)
    async def register(control: ImageWrite, request: RegisterImage) -> ImageView:
        return await control.register_image(request)

    @router.put("/{digest}/content", openapi_extra=_UPLOAD)
    async def upload(
        control: ImageWrite,
        digest: Annotated[Digest, Path()],
        request: Request,
        offset: Annotated[int, Query(ge=0, lt=1 << 50)] = 0,
    ) -> ImageView:
        return await control.upload_image(digest, offset, request.stream())

    @router.get("")
    async def ls(control: ImageRead, paging: Paged, name: Named = None) -> list[ImageView]:
        return paging.answer(await control.images(page=paging.page(TEXTS, name=name)))

    @router.get("/{ref}")
    async def show(control: ImageRead, ref: RefPath) -> ImageView:
        return await control.image(ref)

    @router.delete("/{ref}", status_code=_NO_CONTENT)
    async def rm(control: ImageWrite, ref: RefPath) -> Response:
        await control.remove_image(ref)
        return Response(status_code=_NO_CONTENT)

    return router


def _networks() -> APIRouter:
    router = Router(prefix="/networks", tags=["networks"])

    @router.post("", status_code=_CREATED)
    async def create(control: NetworkWrite, request: CreateNetwork) -> NetworkView:
        return await control.create_network(request)

    @router.get("")
    async def ls(
        control: NetworkRead, paging: Paged, cloud: InCloud = None, name: Named = None
    ) -> list[NetworkView]:
        page = paging.page(TEXTS, name=name)
        return paging.answer(await control.networks(cloud=cloud, page=page))

    @router.get("/{ref}")
    async def show(control: NetworkRead, ref: RefPath, cloud: InCloud = None) -> NetworkView:
        return await control.network(ref, cloud=cloud)

    @router.delete("/{ref}", status_code=_NO_CONTENT)
    async def rm(control: NetworkWrite, ref: RefPath, cloud: InCloud = None) -> Response:
        await control.remove_network(ref, cloud=cloud)
        return Response(status_code=_NO_CONTENT)

    return router


def _volumes() -> APIRouter:
    router = Router(prefix="/volumes", tags=["volumes"])

    @router.post("", status_code=_CREATED)
    async def create(control: VolumeWrite, request: CreateVolume) -> VolumeView:
        return await control.create_volume(request)

    @router.get("")
    async def ls(
        control: VolumeRead, paging: Paged, cloud: InCloud = None, name: Named = None
    ) -> list[VolumeView]:
        page = paging.page(TEXTS, name=name)
        return paging.answer(await control.volumes(cloud=cloud, page=page))

    @router.get("/{ref}")
    async def show(control: VolumeRead, ref: RefPath, cloud: InCloud = None) -> VolumeView:
        return await control.volume(ref, cloud=cloud)

    @router.post("/{ref}/attach", status_code=_ACCEPTED)
    async def attach(
        control: VolumeWrite, ref: RefPath, request: Attach, cloud: InCloud = None
    ) -> OperationView:
        return await control.attach_volume(ref, instance=request.instance, cloud=cloud)

    @router.post("/{ref}/detach", status_code=_ACCEPTED)
    async def detach(control: VolumeWrite, ref: RefPath, cloud: InCloud = None) -> OperationView:
        return await control.detach_volume(ref, cloud=cloud)

    @router.post("/{ref}/resize", status_code=_ACCEPTED)
    async def resize(
        control: VolumeWrite, ref: RefPath, request: Resize, cloud: InCloud = None
    ) -> OperationView:
        return await control.resize_volume(ref, size_bytes=request.size_bytes, cloud=cloud)

    @router.post("/{ref}/snapshot", status_code=_ACCEPTED)
    async def snapshot(
        control: VolumeWrite, ref: RefPath, request: Snapshot, cloud: InCloud = None
    ) -> OperationView:
        return await control.snapshot_volume(ref, snapshot=request.snapshot, cloud=cloud)

    @router.post("/{ref}/restore", status_code=_ACCEPTED)
    async def restore(
        control: VolumeWrite, ref: RefPath, request: Restore, cloud: InCloud = None
    ) -> OperationView:
        """What was written to it since is gone; back to its image, its snapshots are, too."""
        return await control.restore_volume(ref, snapshot=request.snapshot, cloud=cloud)

    @router.post("/{ref}/backup", status_code=_ACCEPTED)
    async def backup(
        control: VolumeWrite, ref: RefPath, request: BackUp, cloud: InCloud = None
    ) -> OperationView:
        return await control.back_up_volume(ref, image=request.image, cloud=cloud)

    @router.delete("/{ref}", status_code=_ACCEPTED)
    async def rm(control: VolumeWrite, ref: RefPath, cloud: InCloud = None) -> OperationView:
        return await control.remove_volume(ref, cloud=cloud)

    return router


def _instances() -> APIRouter:
    router = Router(prefix="/instances", tags=["instances"])

    @router.post("", status_code=_ACCEPTED)
    async def run(control: VmRun, request: RunInstance) -> OperationView:
        return await control.run_instance(request)

    @router.get("")
    async def ls(  # noqa: PLR0917 - FastAPI calls it by name
        control: VmRead,
        paging: Paged,
        cloud: InCloud = None,
        blanket: Annotated[Ref | None, Query()] = None,
        group: Annotated[Name | None, Query()] = None,
        name: Named = None,
        state: InstanceState | None = None,
    ) -> list[InstanceView]:
        page = paging.page(TEXTS, name=name, state=state)
        return paging.answer(await control.instances(cloud=cloud, blanket=blanket, group=group, page=page))

    @router.post("/adopt", status_code=_ACCEPTED)
    async def adopt(control: VmRun, request: AdoptVm) -> OperationView:
        return await control.adopt_vm(request)

    @router.put("/{ref}/placement")
    async def place(
        control: VmRun, ref: RefPath, request: PlaceInstance, cloud: InCloud = None
    ) -> InstanceView:
        return await control.place_instance(ref, request, cloud=cloud)

    @router.get("/{ref}")
    async def show(control: VmRead, ref: RefPath, cloud: InCloud = None) -> InstanceView:
        return await control.instance(ref, cloud=cloud)

    @router.delete("/{ref}", status_code=_ACCEPTED)
    async def rm(control: VmRun, ref: RefPath, cloud: InCloud = None, force: bool = False) -> OperationView:
        return await control.remove_instance(ref, cloud=cloud, force=force)

    return router


def _instances_run() -> APIRouter:
    """What is done with those that there are."""
    router = Router(prefix="/instances", tags=["instances"])

    @router.post("/{ref}/start", status_code=_ACCEPTED)
    async def start(control: VmRun, ref: RefPath, cloud: InCloud = None) -> OperationView:
        return await control.start_instance(ref, cloud=cloud)

    @router.post("/{ref}/stop", status_code=_ACCEPTED)
    async def stop(
        control: VmRun, ref: RefPath, request: Stop | None = None, cloud: InCloud = None
    ) -> OperationView:
        mode = request.mode if request else StopMode.SHUTDOWN
        return await control.stop_instance(ref, cloud=cloud, mode=mode)

    @router.post("/{ref}/reboot", status_code=_ACCEPTED)
    async def reboot(control: VmRun, ref: RefPath, cloud: InCloud = None) -> OperationView:
        return await control.reboot_instance(ref, cloud=cloud)

    @router.post("/{ref}/restore", status_code=_ACCEPTED)
    async def restore(control: VmRun, ref: RefPath, request: Restore, cloud: InCloud = None) -> OperationView:
        """It ends, the volume that it boots from goes back, and it starts again where it was."""
        return await control.restore_instance(ref, snapshot=request.snapshot, cloud=cloud)

    @router.post("/{ref}/scan", status_code=_ACCEPTED)
    async def scan(control: VmRun, ref: RefPath, cloud: InCloud = None) -> ScanView:
        """Its memory, by its blanket's YARA rules. What matches becomes an incident."""
        return await control.scan_instance(ref, cloud=cloud)

    @router.post("/{ref}/migrate", status_code=_ACCEPTED)
    async def migrate(
        control: VmMigrate, ref: RefPath, request: Migrate, cloud: InCloud = None
    ) -> OperationView:
        return await control.migrate_instance(ref, to=request.to, cloud=cloud)

    @router.post("/move", status_code=_ACCEPTED)
    async def move(control: VmMigrate, request: MoveGroup) -> OperationView:
        return await control.move_group(request)

    return router
