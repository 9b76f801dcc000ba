"""What detectors say, in OCSF's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from supercloud import __version__
from supercloud.model.findings import Severity
from supercloud.model.names import Name

VERSION = "1.3.0"  # of OCSF
Event = dict[str, Any]


def finding(
    detector: Name,
    *,
    uid: str,
    rule: str,
    title: str,
    severity: Severity,
    about: str | None,
    at: float,
    evidence: Mapping[str, Any],
) -> Event:
    """A Detection Finding. `about`: what the detector calls it; None: the blanket. `at`: seconds since the
    epoch."""
    event: Event = {
        "class_uid": 2004,
        "category_uid": 2,
        "activity_id": 1,
        "type_uid": 200401,
        "severity_id": severity.rank,
        "time": int(at * 1000),
        "metadata": _metadata(detector, uid),
        "finding_info": {"uid": uid, "title": title, "analytic": {"uid": rule, "type_id": 1}},
        "evidences": [dict(evidence)],
    }
    if about is not None:
        event["resources"] = [{"uid": about}]
    return event


@dataclass(frozen=True, slots=True)
class Speaker:
    """At a port. `uid`: the event's. `about`: the port. `at`: seconds since the epoch."""

    detector: Name
    _: KW_ONLY
    uid: str
    about: str
    mac: str
    at: float


def connection(by: Speaker, *, source: tuple[str, int], target: tuple[str, int]) -> Event:
    """A TCP connection that begins: OCSF's Network Activity."""
    return {
        **_activity(by, 1),  # Open
        "src_endpoint": {"ip": source[0], "port": source[1], "mac": by.mac},
        "dst_endpoint": {"ip": target[0], "port": target[1]},
        "connection_info": {"protocol_name": "tcp", "direction_id": 2},
        "action": "allowed",
    }


def asking(by: Speaker, *, source: str, target: str) -> Event:
    """By ARP, who has an address of its network: OCSF's Network Activity."""
    return {
        **_activity(by, 6),  # Traffic
        "src_endpoint": {"ip": source, "mac": by.mac},
        "dst_endpoint": {"ip": target},
        "connection_info": {"protocol_name": "arp", "direction_id": 2},
    }


def _activity(by: Speaker, activity: int) -> Event:
    return {
        "class_uid": 4001,
        "category_uid": 4,
        "activity_id": activity,
        "type_uid": 400100 + activity,
        "severity_id": 1,
        "time": int(by.at * 1000),
        "metadata": _metadata(by.detector, by.uid),
        "device": {"uid": by.about},
    }


def _metadata(detector: Name, uid: str) -> dict[str, Any]:
    return {
        "uid": uid,
        "version": VERSION,
        "product": {"name": detector, "vendor_name": "supercloud", "version": __version__},
    }
