"""A blanket's files against its image's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supercloud.agent import measured
from supercloud.model.errors import Failed
from supercloud.model.ocsf import DetectionFinding
from supercloud.security.detectors import integrity
from supercloud.security.detectors.integrity import Integrity, differences

pytestmark = pytest.mark.unit


class Blanket:
    """`root` as it was booted from `image`, whose files it shares until they are changed, as an overlay's."""

    def __init__(self, folder: Path) -> None:
        self.image, self.root = folder / "image", folder / "root"
        for name in ("usr/bin/nft", "usr/sbin/libvirtd", "usr/lib/supercloud/boot", "etc/service/agent/run"):
            (self.image / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.image / name).write_text(name)
            os.link(self.image / name, self.root / name)
        self.image_marks = measured.marks(self.image)
        self.watch = Integrity("boot")
        self.read: list[str] = []

    def change(self, name: str, content: str) -> Path:
        """A copy of its own, as the first write to an overlay makes one."""
        path = self.root / name
        path.unlink()
        path.write_text(content)
        return path

    def look(self) -> list[tuple[str, str]]:
        """Rule and file of each finding."""

        def same(path: str) -> bool:
            self.read.append(path)
            return measured.same(path, self.root, self.image)

        events = self.watch.look(
            differences(self.image_marks, measured.marks(self.root), measured.OWN), same, 1000.0
        )
        for one in events:
            DetectionFinding.model_validate(one)
        return [
            (one["finding_info"]["analytic"]["uid"], one["evidences"][0]["data"]["path"]) for one in events
        ]


@pytest.fixture
def blanket(tmp_path: Path) -> Blanket:
    return Blanket(tmp_path)


def test_what_is_as_it_was_is_not_even_read(blanket: Blanket) -> None:
    (blanket.root / "etc/service/agent/supervise").mkdir()
    (blanket.root / "etc/service/agent/supervise/status").write_text("x")
    (blanket.root / "etc/service/shell").mkdir()
    (blanket.root / "etc/service/shell/run").write_text("what the boot puts beside the image's")
    assert blanket.look() == []
    assert blanket.read == []


def test_a_changed_file_is_found_whatever_it_says_of_itself(blanket: Blanket) -> None:
    before = (blanket.image / "usr/bin/nft").stat()
    path = blanket.change("usr/bin/nft", "usr/bin/nfT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode)
    assert path.stat().st_size == before.st_size
    assert blanket.look() == [(integrity.CHANGED, "usr/bin/nft")]
    assert blanket.look() == [], "told once"
    blanket.change("usr/bin/nft", "usr/bin/nFT")
    assert blanket.look() == [(integrity.CHANGED, "usr/bin/nft")], "and again when it is changed again"


def test_what_was_only_touched_is_the_same(blanket: Blanket) -> None:
    blanket.change("usr/sbin/libvirtd", "usr/sbin/libvirtd").chmod(
        (blanket.image / "usr/sbin/libvirtd").stat().st_mode
    )
    assert blanket.look() == []
    assert blanket.read == ["usr/sbin/libvirtd"]
    assert blanket.look() == []
    assert blanket.read == ["usr/sbin/libvirtd"], "it is read once"


def test_what_is_gone_or_new_or_a_link_or_has_other_rights_is_found(blanket: Blanket) -> None:
    (blanket.root / "usr/lib/supercloud/boot").unlink()
    (blanket.root / "usr/bin/evil").write_text("x")
    (blanket.root / "usr/bin/nft").unlink()
    (blanket.root / "usr/bin/nft").symlink_to("evil")
    blanket.change("etc/service/agent/run", "etc/service/agent/run").chmod(0o4755)
    assert sorted(blanket.look()) == [
        (integrity.CHANGED, "etc/service/agent/run"),
        (integrity.CHANGED, "usr/bin/nft"),
        (integrity.MISSING, "usr/lib/supercloud/boot"),
        (integrity.UNKNOWN, "usr/bin/evil"),
    ]


def test_what_is_put_right_and_broken_again_is_told_again(blanket: Blanket) -> None:
    blanket.change("usr/bin/nft", "evil")
    assert blanket.look() == [(integrity.CHANGED, "usr/bin/nft")]
    (blanket.root / "usr/bin/nft").unlink()
    os.link(blanket.image / "usr/bin/nft", blanket.root / "usr/bin/nft")
    assert (blanket.root / "usr/bin/nft").stat().st_ctime_ns != blanket.image_marks["usr/bin/nft"].changed_ns
    assert blanket.look() == [], "its content and rights are the image's"
    blanket.change("usr/bin/nft", "evil")
    assert blanket.look() == [(integrity.CHANGED, "usr/bin/nft")]


def test_whoever_changes_everything_floods_nobody(blanket: Blanket) -> None:
    for number in range(100):
        (blanket.root / f"usr/bin/evil-{number}").write_text("x")
    assert len(blanket.look()) == integrity.MOST


def test_without_an_image_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="has no programs"):
        measured.marks(tmp_path)
