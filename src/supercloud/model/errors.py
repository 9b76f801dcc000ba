"""Every error that supercloud raises on purpose, as one tree.

SupercloudError            message for a person, `code` for a program, `hint` says what to do next
├── InvalidInput           the request can never succeed as written (exit 2, HTTP 422)
├── NotFound               a named thing does not exist (exit 3, HTTP 404)
├── Conflict               the thing exists, or its state forbids the request now (exit 4, HTTP 409)
│   ├── PreconditionFailed the thing is not as the caller had seen it (HTTP 412)
│   └── Refused            a preflight or a safety rule said no; the message carries the rule's reason
│       ├── RightRefused   a run right was not granted, renewed or moved
│       └── OverQuota      a cloud's quota has no room for what was asked
├── Denied                 the caller may not do this (exit 5, HTTP 403)
│   └── Unauthenticated    it is not known who asks: no token, or none that counts, or no proof (HTTP 401)
├── Unavailable            a part cannot be reached or is late; a retry may help (exit 6, HTTP 503)
│   └── OutcomeUnknown     a request was sent and its effect is not known: look it up, never assume
├── Exhausted              disk, memory, ports or a bound ran out (exit 7, HTTP 507)
│   └── TooOften           so much in so short a time is more than anybody may ask for (HTTP 429)
└── Failed                 a tool or a hypervisor reported failure (exit 1, HTTP 500)
    └── DataLost           data that a blanket had are not there any more; nothing is put in their place

A foreign exception is translated once, at the driver that met it, and chained (`raise ... from`).
"""

from __future__ import annotations

from typing import ClassVar


class SupercloudError(Exception):
    """Base of the tree. `str(error)` is one line; `hint`, if any, is a second."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(SupercloudError):
    code = "invalid-input"
    exit_status = 2
    http_status = 422


class NotFound(SupercloudError):
    code = "not-found"
    exit_status = 3
    http_status = 404


class Conflict(SupercloudError):
    code = "conflict"
    exit_status = 4
    http_status = 409


class Refused(Conflict):
    code = "refused"


class RightRefused(Refused):
    code = "right-refused"


class OverQuota(Refused):
    code = "over-quota"


class PreconditionFailed(Conflict):
    code = "precondition-failed"
    http_status = 412


class Denied(SupercloudError):
    code = "denied"
    exit_status = 5
    http_status = 403


class Unauthenticated(Denied):
    code = "unauthenticated"
    http_status = 401


class Unavailable(SupercloudError):
    code = "unavailable"
    exit_status = 6
    http_status = 503


class OutcomeUnknown(Unavailable):
    code = "outcome-unknown"


class Exhausted(SupercloudError):
    code = "exhausted"
    exit_status = 7
    http_status = 507


class TooOften(Exhausted):
    code = "too-often"
    http_status = 429


class Failed(SupercloudError):
    code = "failed"
    exit_status = 1
    http_status = 500


class DataLost(Failed):
    code = "data-lost"


def _tree(base: type[SupercloudError]) -> list[type[SupercloudError]]:
    return [base, *(leaf for child in base.__subclasses__() for leaf in _tree(child))]


def error_from(code: str, message: str, hint: str | None = None) -> SupercloudError:
    """The error a peer reported by its `code`; an unknown code becomes `Failed`, never an exception here."""
    # A kind without a code of its own is a special case of its parent, and may be made of other things.
    by_code = {kind.code: kind for kind in _tree(SupercloudError) if "code" in vars(kind)}
    return by_code.get(code, Failed)(message, hint=hint)


def error_of_status(status: int, message: str) -> SupercloudError:
    """The error that a program of ours ended with; a status of nobody's becomes `Failed`."""
    kinds = (InvalidInput, NotFound, Conflict, Denied, Unavailable, Exhausted)
    return next((kind for kind in kinds if kind.exit_status == status), Failed)(message)
