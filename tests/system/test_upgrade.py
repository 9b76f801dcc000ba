"""A real blanket's agent and keeper, upgraded in place: to what works, and back from what does not."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from supercloud.controlplane.compose import control_plane
from supercloud.controlplane.listener import AgentListener
from supercloud.images.blanket import BuiltImages
from supercloud.images.bundle import bundle_path
from supercloud.keystore.memory import memory_keystore
from supercloud.model.names import GIB
from supercloud.platforms import open_platform
from supercloud.services import upgrades
from supercloud.services.facade import ControlPlane
from supercloud.services.parts import Settings
from supercloud.services.requests import AddBlanket, AddProvider, CreateCloud
from supercloud.services.upgrades import OwnBundle
from supercloud.services.views import OperationView
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tls import Credentials, server_context

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]


def _changed(folder: Path, change: Callable[[Path], object]) -> Path:
    """Today's bundle with a change."""
    folder.mkdir()
    subprocess.run(["unsquashfs", "-q", "-n", "-d", folder / "x", bundle_path()], check=True)
    change(folder / "x" / "site" / "supercloud")
    made = folder / "bundle.squashfs"
    subprocess.run(["mksquashfs", folder / "x", made, "-quiet", "-no-progress"], check=True)
    shutil.rmtree(folder / "x")
    return made


def _silent(code: Path) -> None:
    """It starts, and never dials: found out only once it runs."""
    compiled = (code / "agent" / "__pycache__").glob("__main__*")
    for path in compiled:
        path.unlink()
    (code / "agent" / "__main__.py").write_text(
        "import time\nif __name__ == '__main__':\n    time.sleep(3600)\n"
    )


def _digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


async def _ended(control: ControlPlane, view: OperationView) -> OperationView:
    while view.ended_at is None:
        view = await control.operation(view.id, wait_s=10)
    return view


async def test_a_blanket_is_upgraded_and_comes_back_from_code_that_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = BuiltImages()
    keys = memory_keystore()
    own = bundle_path()
    # Made before anybody has to be answered.
    works = _changed(tmp_path / "works", lambda code: (code / "mark").touch())
    lacking = _changed(tmp_path / "lacking", lambda code: shutil.rmtree(code / "wire"))
    silent = _changed(tmp_path / "silent", _silent)
    identity = IdentityKey.new()
    issued = await keys.issue_controller(csr_pem=identity.csr())
    context = server_context(
        Credentials(issued.certificate_pem, identity.to_pem()), issued.authority_pem, joining=True
    )
    settings = Settings(
        images=tmp_path / "images",
        agents_port=0,
        blanket_image=images.current,
        database="sqlite",
        bundle=OwnBundle(lambda: own),
    )
    platform = open_platform("qemu", tmp_path / "platform", images)
    monkeypatch.setattr(upgrades, "_BACK_S", 240.0)
    async with control_plane(
        database=f"sqlite:///{tmp_path / 'supercloud.db'}",
        settings=settings,
        keys=keys,
        drivers=lambda *_: platform,
    ) as (control, parts, _, _):
        listener = AgentListener(parts)
        object.__setattr__(settings, "agents_port", await listener.start("127.0.0.1", 0, context))
        await control.start()
        await control.add_provider(AddProvider(name="p", kind="qemu"))
        await control.create_cloud(CreateCloud(name="c"))
        request = AddBlanket(name="north", cloud="c", provider="p", memory_mib=1024, disk_bytes=2 * GIB)
        added = await _ended(control, await control.add_blanket(request))
        try:
            assert added.error is None

            async def runs() -> str | None:
                return (await parts.agents.agent(added.object).report()).bundle

            async def upgraded_to(bundle: Path) -> OperationView:
                object.__setattr__(settings, "bundle", OwnBundle(lambda: bundle))
                return await _ended(control, await control.upgrade_blanket("north"))

            assert await runs() == _digest(own)
            done = await upgraded_to(works)
            assert done.error is None and await runs() == _digest(works)

            refused = await upgraded_to(lacking)
            assert refused.error is not None and "supercloud.wire" in refused.error["message"]
            assert await runs() == _digest(works)

            failed = await upgraded_to(silent)
            assert failed.error is not None and "does not run the new code" in failed.error["message"]
            await parts.agents.wait_for(added.object, 300)
            assert await runs() == _digest(works), "the former one took over again"
        finally:
            await platform.destroy(added.object)
            await listener.close()
