"""What detectors say, in OCSF's words."""

from __future__ import annotations

from collections.abc import Mapping
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


def connection(
    detector: Name,
    *,
    uid: str,
    about: str,
    at: float,
    source: tuple[str, int],
    target: tuple[str, int],
    mac: str,
) -> Event:
    """A TCP connection that begins: OCSF's Network Activity."""
    return {
        "class_uid": 4001,
        "category_uid": 4,
        "activity_id": 1,
        "type_uid": 400101,
        "severity_id": 1,
        "time": int(at * 1000),
        "metadata": _metadata(detector, uid),
        "src_endpoint": {"ip": source[0], "port": source[1], "mac": mac},
        "dst_endpoint": {"ip": target[0], "port": target[1]},
        "connection_info": {"protocol_name": "tcp", "direction_id": 2},
        "action": "allowed",
        "device": {"uid": about},
    }


def _metadata(detector: Name, uid: str) -> dict[str, Any]:
    return {
        "uid": uid,
        "version": VERSION,
        "product": {"name": detector, "vendor_name": "supercloud", "version": __version__},
    }
