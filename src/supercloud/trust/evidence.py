"""Evidence: what a blanket kept of an instance, sealed to its owner, as a file that can be made and read in
one go with little memory.

    supercloud evidence 1 \\n
    the header, JSON, one line               what it is of, and its key, sealed to the owner (trust.sealing)
    frames                                   length (4 bytes, big-endian, the first bit set in the last one),
                                             ciphertext of at most 1 MiB and a tag
    \\n the trailer, JSON, one line           the blanket's signature over the digest of all before it

Frames are ChaCha20-Poly1305 under a fresh key, as age has it (STREAM): the nonce is the frame's number and
whether it is the last, so that none can be left out, moved, repeated or put at the end. What is sealed begins
with what was known, as JSON with its length before it; the rest is the memory.

That nobody but the owner can read it follows from the key; that a blanket made it, from the signature:
anybody can seal to an owner.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any, Final, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import Denied, InvalidInput
from supercloud.model.names import Id
from supercloud.ports.agent import SealedKey
from supercloud.trust.canonical import canonical
from supercloud.trust.keys import KEY_BYTES, IdentityKey, SealingKey, from_text, to_text, verify_signature
from supercloud.trust.sealing import open_sealed, seal

T = TypeVar("T")
MAGIC: Final = b"supercloud evidence 1\n"
CHUNK_BYTES: Final = 1 << 20
#: Of the header, the trailer, and what was known.
LINE_BYTES, KNOWN_BYTES = 16 << 10, 4 << 20
_PURPOSE = "supercloud evidence 1"
_TAG_BYTES, _LAST, _COUNTER_BYTES, _SIGNATURE_BYTES = 16, 1 << 31, 11, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """In clear, and authentic only once the whole file was read. `at`: by the blanket's clock, seconds since
    the epoch. `memory_bytes`: as much as the instance had ever written to."""

    evidence: Id
    incident: Id  # as its blanket names it
    instance: Id
    blanket: Id
    cloud: Id
    at: float
    memory_bytes: int
    key: SealedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """`whole`: nothing of the instance ran, and nothing wrote to its memory, while that was copied. Else the
    copy is torn: of several moments."""

    whole: bool
    signature: str


def purpose(cloud: Id, evidence: Id) -> str:
    """What a key of evidence is sealed for."""
    return f"evidence:{cloud}:{evidence}"


def fresh_key(owner_key: str, *, cloud: Id, blanket: Id, evidence: Id) -> tuple[bytes, SealedKey]:
    """A key for one piece of evidence, and the same so that only the owner can open it.

    Raises:
        InvalidInput: `owner_key` is no X25519 public key.
    """
    key = os.urandom(KEY_BYTES)
    return key, seal(key, to=owner_key, blanket=blanket, purpose=purpose(cloud, evidence))


def open_key(sealed: SealedKey, *, key: SealingKey, cloud: Id, blanket: Id, evidence: Id) -> bytes:
    """The owner's end of it. Raises: Denied, InvalidInput."""
    return open_sealed(sealed, key=key, blanket=blanket, purpose=purpose(cloud, evidence))


class Sealing:
    """Writes one file; `write` takes all of what it is given."""

    def __init__(self, header: Header, key: bytes, write: Callable[[bytes], object]) -> None:
        line = json.dumps(asdict(header)).encode() + b"\n"
        self._aead, self._bound = ChaCha20Poly1305(key), hashlib.sha256(line).digest()
        self._write, self._seen = write, hashlib.sha256()
        self._waiting, self._frames = bytearray(), 0
        self._put(MAGIC + line)

    def write(self, data: bytes) -> None:
        """As it comes. What has to wait for the next is at most one frame."""
        self._waiting += data
        while len(self._waiting) > CHUNK_BYTES:  # the last one is known as that at the end only
            self._frame(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]

    def end(self) -> str:
        """After the last; the digest that is to be signed."""
        self._frame(bytes(self._waiting), last=True)
        return self._seen.hexdigest()

    def _frame(self, clear: bytes, *, last: bool) -> None:
        sealed = self._aead.encrypt(_nonce(self._frames, last=last), clear, self._bound)
        self._put((len(sealed) | (_LAST if last else 0)).to_bytes(4, "big") + sealed)
        self._frames += 1

    def _put(self, data: bytes) -> None:
        self._seen.update(data)
        self._write(data)


def trailer(digest: str, *, whole: bool, blanket: Id, evidence: Id, identity: IdentityKey) -> bytes:
    """What ends the file."""
    signature = to_text(identity.sign(_signed(digest, whole=whole, blanket=blanket, evidence=evidence)))
    return b"\n" + json.dumps(asdict(Trailer(whole=whole, signature=signature))).encode() + b"\n"


def _signed(digest: str, *, whole: bool, blanket: Id, evidence: Id) -> bytes:
    return canonical(_PURPOSE, blanket, evidence, digest, "whole" if whole else "torn")


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(_COUNTER_BYTES, "big") + (b"\1" if last else b"\0")


# ---------------------------------------------------------------- reading


def header_of(file: IO[bytes]) -> Header:
    """What a file says of itself, and nobody has checked.

    Raises:
        InvalidInput: it is no evidence.
    """
    return _begun(file)[0]


def trailer_of(file: IO[bytes]) -> Trailer:
    """The same of its end. Raises: InvalidInput."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - LINE_BYTES))
    return _line(Trailer, file.read(LINE_BYTES).rstrip(b"\n").rpartition(b"\n")[2])


class Opening:
    """Reads one file. What it gives counts once `end` has returned: until then it may be cut off, or forged.

    Raises:
        InvalidInput: it is no evidence.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.header, line = _begun(file)
        self._bound = hashlib.sha256(line).digest()
        self._seen = hashlib.sha256(MAGIC + line)

    def clear(self, key: bytes) -> Iterator[bytes]:
        """What was sealed, a frame at a time.

        Raises:
            Denied: it is not as it was sealed, or was by another key.
            InvalidInput: it is cut off.
        """
        aead, number, last = ChaCha20Poly1305(key), 0, False
        while not last:
            size = self._read(4)
            length, last = int.from_bytes(size, "big") & ~_LAST, bool(size[0] & 0x80)
            if not _TAG_BYTES <= length <= CHUNK_BYTES + _TAG_BYTES:
                raise InvalidInput("this is no evidence: a frame of a wrong length")
            sealed = self._read(length)
            self._seen.update(size + sealed)
            try:
                yield aead.decrypt(_nonce(number, last=last), sealed, self._bound)
            except InvalidTag as error:
                raise Denied(f"frame {number} of this evidence is not as it was sealed") from error
            number += 1

    @property
    def digest(self) -> str:
        """After the last frame: SHA-256 of all that its blanket signed, hexadecimal."""
        return self._seen.hexdigest()

    def end(self, public_key: str | None) -> Trailer:
        """After the last frame: what the blanket with this key signed; None: nobody knows its key any more,
        nor therefore who made it.

        Raises:
            Denied: that blanket did not make it.
            InvalidInput: it is cut off, or goes on.
        """
        said = self._file.read(LINE_BYTES)
        if not (said.startswith(b"\n") and said.endswith(b"\n")):
            raise InvalidInput("this evidence does not end as one does: it is cut off, or goes on")
        found, of = _line(Trailer, said), self.header
        message = _signed(self.digest, whole=found.whole, blanket=of.blanket, evidence=of.evidence)
        signature = from_text(found.signature, length=_SIGNATURE_BYTES)
        if public_key is not None and not verify_signature(public_key, signature, message):
            raise Denied(f"blanket {of.blanket} has not made this evidence")
        return found

    def _read(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise InvalidInput("this evidence is cut off")
        return data


def known_first(known: Any) -> bytes:
    """What was known, as what is sealed begins with it. Raises: InvalidInput (too much)."""
    said = json.dumps(known).encode()
    if len(said) > KNOWN_BYTES:
        raise InvalidInput("more was known than goes with evidence")
    return len(said).to_bytes(4, "big") + said


def known_and_rest(clear: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """What was known, as JSON, and what follows it.

    Raises:
        InvalidInput: it does not begin so.
    """
    begun = bytearray()
    for data in clear:
        begun += data
        length = int.from_bytes(begun[:4], "big")
        if length > KNOWN_BYTES:
            break
        if len(begun) >= 4 + length:
            return bytes(begun[4 : 4 + length]), _after(bytes(begun[4 + length :]), clear)
    raise InvalidInput("this evidence does not begin as one does")


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _begun(file: IO[bytes]) -> tuple[Header, bytes]:
    if file.read(len(MAGIC)) != MAGIC:
        raise InvalidInput("this is no evidence of supercloud's")
    line = file.readline(LINE_BYTES)
    return _line(Header, line), line


def _line(kind: type[T], line: bytes) -> T:
    try:
        return TypeAdapter(kind).validate_json(line)
    except ValidationError as error:
        raise InvalidInput("this is no evidence: what it says of itself cannot be read") from error
