"""Where a control plane's state is on this machine, and what a client needs to reach it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from supercloud.model.errors import InvalidInput, Unavailable
from supercloud.trust.files import write_private

#: Where the paths of an API begin.
NORTHBOUND, SOUTHBOUND = "/v1", "/southbound/v1"
#: Whom the first key belongs to, and the key that is used unless another is named.
FIRST_KEY = "operator"
#: The name of the key to speak with.
KEY_VARIABLE = "SUPERCLOUD_KEY"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach the API, and as whom: paths of files, the key's and the token's for their owner only."""

    host: str
    port: int
    authority: str  # PEM
    key: str  # PEM
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the API listens, and under which authority's certificates."""

    host: str
    port: int
    authority: str  # a PEM file


@dataclass(frozen=True, slots=True)
class Place:
    """`$SUPERCLOUD_HOME`, or the user's state directory; one control plane for each."""

    home: Path

    @classmethod
    def default(cls) -> Place:
        chosen = os.environ.get("SUPERCLOUD_HOME")
        return cls(Path(chosen).absolute() if chosen else platformdirs.user_state_path("supercloud"))

    @property
    def endpoint_file(self) -> Path:
        return self.home / "access.json"

    @property
    def ports_file(self) -> Path:
        """Of a control plane that `supercloud up` has started here."""
        return self.home / "ports.json"

    @property
    def own(self) -> bool:
        """Whether there is one."""
        return self.ports_file.exists()

    @property
    def authority_file(self) -> Path:
        return self.home / "authority.pem"

    @property
    def keystore_socket(self) -> Path:
        return self.home / "keystore.sock"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    def key_file(self, name: str) -> Path:
        """Of a private key. Raises: InvalidInput (no such name can be)."""
        return self.keys / f"{_checked(name)}.pem"

    def token_file(self, name: str) -> Path:
        """Of the token that is used with the key of that name. Raises: InvalidInput."""
        return self.keys / f"{_checked(name)}.token"

    def access(self, key: str | None = None) -> Access:
        """With `key`, or the one that $SUPERCLOUD_KEY names, or the first one.

        Raises:
            Unavailable: nothing was set up here.
            InvalidInput: the file is broken, or such a key cannot be.
        """
        name = key or os.environ.get(KEY_VARIABLE) or FIRST_KEY
        endpoint = self.endpoint()
        return Access(**asdict(endpoint), key=str(self.key_file(name)), token=str(self.token_file(name)))

    def endpoint(self) -> Endpoint:
        """Raises: as `access`."""
        try:
            return Endpoint(**json.loads(self.endpoint_file.read_text()))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unavailable(f"there is no control plane in {self.home}", hint="supercloud up") from error
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{self.endpoint_file} is broken", hint="supercloud up rewrites it") from error

    def save(self, endpoint: Endpoint) -> None:
        write_private(self.endpoint_file, json.dumps(asdict(endpoint)).encode())


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is not the name of a key: lower-case letters, digits, inner hyphens")
    return name
