"""Drivers of ports.platform: what runs blankets. `open_platform` makes one by its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import InvalidInput
from supercloud.platforms.values import first_problem

if TYPE_CHECKING:
    from supercloud.ports.platform import BlanketImages, Platform

Options = TypeVar("Options")


def open_platform(
    kind: str,
    state_dir: Path,
    images: BlanketImages,
    options: Mapping[str, object] | None = None,
    *,
    cache_dir: Path | None = None,
) -> Platform:
    """The platform of one domain.

    Args:
        kind: `qemu`, `microhypervisor` or `simulated`.
        state_dir: this domain's own directory; made if need be. Machines found in it are adopted.
        options: of the kind (fields of `QemuOptions`, `MicrohypervisorOptions`, …); values may be strings as
            typed by a user.
        cache_dir: where the proof of the accelerator is kept, shared by domains; `state_dir` by default.

    Raises:
        InvalidInput: an unknown kind or option, or a value out of range; the message lists what there is.
    """
    opener = _KINDS.get(kind)
    if opener is None:
        raise InvalidInput(f"there is no platform kind {kind!r}", hint=f"kinds: {', '.join(sorted(_KINDS))}")
    return opener(state_dir, images, options or {}, cache_dir or state_dir)


def _qemu(state_dir: Path, images: BlanketImages, options: Mapping[str, object], cache_dir: Path) -> Platform:
    from supercloud.platforms.qemu.driver import QemuOptions, QemuPlatform

    return QemuPlatform(state_dir, images, _options(QemuOptions, "qemu", options), cache_dir=cache_dir)


def _microhypervisor(
    state_dir: Path, images: BlanketImages, options: Mapping[str, object], cache_dir: Path
) -> Platform:
    from supercloud.platforms.microhypervisor.driver import MicrohypervisorOptions, MicrohypervisorPlatform
    from supercloud.ports.platform import MicrohypervisorImages

    if not isinstance(images, MicrohypervisorImages):
        raise InvalidInput("there is no micro-hypervisor among these images")
    chosen = _options(MicrohypervisorOptions, "microhypervisor", options)
    return MicrohypervisorPlatform(state_dir, images, chosen)


def _simulated(
    state_dir: Path, images: BlanketImages, options: Mapping[str, object], cache_dir: Path
) -> Platform:
    from supercloud.platforms.simulated import SimulatedHost, SimulatedOptions, SimulatedPlatform

    return SimulatedPlatform(SimulatedHost(), _options(SimulatedOptions, "simulated", options), images=images)


_KINDS: dict[str, Callable[[Path, BlanketImages, Mapping[str, object], Path], Platform]] = {
    "microhypervisor": _microhypervisor,
    "qemu": _qemu,
    "simulated": _simulated,
}


def _options(into: type[Options], kind: str, options: Mapping[str, object]) -> Options:
    known = list(getattr(into, "__dataclass_fields__", {}))
    hint = f"options of {kind}: {', '.join(known) or 'none'}"
    for name in options:
        if name not in known:
            raise InvalidInput(f"platform {kind} has no option {name!r}", hint=hint)
    try:
        return TypeAdapter(into).validate_python(dict(options))
    except ValidationError as error:
        raise InvalidInput(f"platform {kind}: {first_problem(error)}", hint=hint) from error
