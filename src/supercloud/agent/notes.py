"""What reactions that are done once write down, so that none is done again: one killed finds it."""

from __future__ import annotations

import json
from pathlib import Path

from supercloud.model.errors import Failed


class Notes:
    """One small file for each thing, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> dict[str, str | int]:
        try:
            found: dict[str, str | int] = json.loads((self._folder / name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def write(self, name: str, **said: str | int) -> None:
        """Raises: Failed."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._folder / f"{name}.new"
            fresh.write_text(json.dumps(said))
            fresh.rename(self._folder / name)
        except OSError as error:
            raise Failed(f"it cannot be written down: {error}") from error

    def names(self) -> list[str]:
        return sorted(one.name for one in self._folder.glob("*") if one.suffix != ".new")

    def drop(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
