"""Where a control plane's state is on this machine, and what an operator needs to reach it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from supercloud.model.errors import InvalidInput, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach the API: kept in a file that only the operator reads."""

    host: str
    port: int
    certificate: str  # PEM files
    key: str
    authority: str
    expires_at: float  # of the certificate, wall clock


@dataclass(frozen=True, slots=True)
class Place:
    """`$SUPERCLOUD_HOME`, or the user's state directory; one control plane for each."""

    home: Path

    @classmethod
    def default(cls) -> Place:
        chosen = os.environ.get("SUPERCLOUD_HOME")
        return cls(Path(chosen).absolute() if chosen else platformdirs.user_state_path("supercloud"))

    @property
    def access_file(self) -> Path:
        return self.home / "operator" / "access.json"

    @property
    def keystore_socket(self) -> Path:
        return self.home / "keystore.sock"

    def access(self) -> Access:
        """
        Raises:
            Unavailable: nothing was set up here.
            InvalidInput: the file is broken.
        """
        try:
            return Access(**json.loads(self.access_file.read_text()))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unavailable(f"there is no control plane in {self.home}", hint="supercloud up") from error
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{self.access_file} is broken", hint="supercloud up rewrites it") from error

    def save(self, access: Access) -> None:
        self.access_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = self.access_file.with_suffix(".new")
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(access), file)
        scratch.replace(self.access_file)
