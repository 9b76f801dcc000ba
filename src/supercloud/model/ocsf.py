"""OCSF events at our boundary: which are taken, and what we understand of them (docs/adr/0022). Pure.

Taken is the class Detection Finding (2004) of OCSF 1.x, as JSON, with the attributes that OCSF requires of
it. What we do not know of an event stays in it, as it came.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from supercloud.model.bounded import Bounds
from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Severity

CLASS_UID, CATEGORY_UID = 2004, 2
#: Of one event. Those of common detectors have some 2 to 8 KiB.
EVENT = Bounds(bytes_=32 << 10, depth=12, values=2000)
#: Of its evidence.
EVIDENCES = 32
#: Milliseconds since the epoch, of this century or the next.
_Millis = Annotated[int, Field(ge=0, le=8 * 10**12)]
_Uid = Annotated[str, Field(min_length=1, max_length=200)]
_Line = Annotated[str, Field(min_length=1, max_length=256)]
#: What would start a new line, or is another's to read than a person's.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class _Part(BaseModel):
    """Of an event: what it has beyond what is named here is kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class Product(_Part):
    """Who made the detector. OCSF wants one of these two."""

    name: _Line | None = None
    uid: _Uid | None = None
    vendor_name: _Line | None = None


class Metadata(_Part):
    uid: _Uid  # of the event: what is delivered under it again is the same event
    version: Annotated[str, Field(pattern=r"^1\.\d{1,3}(\.\d{1,3})?([-+][0-9A-Za-z.-]{1,32})?$")]
    product: Product


class Analytic(_Part):
    """The rule, or whatever else found it."""

    name: _Line | None = None
    uid: _Uid | None = None
    type_id: Annotated[int, Field(ge=0, le=99)] | None = None


class FindingInfo(_Part):
    uid: _Uid
    title: _Line
    analytic: Analytic | None = None


class Resource(_Part):
    """What was attacked: a machine, by the platform's own id of it."""

    uid: _Uid | None = None
    type: _Line | None = None


class DetectionFinding(_Part):
    """An event of class 2004, as far as we look at it. What else it has is kept as it came."""

    class_uid: Literal[2004]
    category_uid: Literal[2]
    activity_id: Literal[0, 1, 2, 3, 99]
    type_uid: int
    severity_id: Literal[0, 1, 2, 3, 4, 5, 6, 99]
    time: _Millis
    metadata: Metadata
    finding_info: FindingInfo
    #: Of which we take one: none is about the domain as a whole.
    resources: Annotated[list[Resource], Field(max_length=1)] | None = None
    evidences: Annotated[list[dict[str, Any]], Field(max_length=EVIDENCES)] | None = None

    @model_validator(mode="after")
    def _typed(self) -> Self:
        if self.type_uid != self.class_uid * 100 + self.activity_id:
            raise ValueError("type_uid is class_uid times 100 plus activity_id")
        return self

    @property
    def machine(self) -> str | None:
        """What it says that it is about: the platform's id of a machine; None: nothing in particular."""
        return self.resources[0].uid if self.resources else None

    @property
    def severity(self) -> Severity:
        return Severity.ranked(self.severity_id)

    @property
    def title(self) -> str:
        """In one line."""
        return one_line(self.finding_info.title)

    @property
    def rule(self) -> str | None:
        found = self.finding_info.analytic
        text = None if found is None else found.name or found.uid
        return one_line(text or "") or None

    def as_it_came(self) -> dict[str, Any]:
        """With what we do not know of it.

        Raises:
            InvalidInput: it is larger, deeper or odder than an event may be, or has a title of nothing.
        """
        if not self.title:
            raise InvalidInput("a finding's title has something to read in it")
        event = self.model_dump(mode="python", exclude_unset=True)
        EVENT.check(event, "the event")
        return event


def one_line(text: str) -> str:
    """Without what would begin another line or move a terminal's cursor."""
    return _CONTROL.sub(" ", text).strip()
