"""An incident in others' formats: a STIX 2.1 bundle, an OCSF Incident Finding. Pure.

What is exported can be handed to strangers: it has ids, addresses, rules and times in it, and nobody's names.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from supercloud import __version__
from supercloud.model.incidents import Incident, IncidentState, Seen
from supercloud.model.names import Id, Ipv4
from supercloud.model.ocsf import one_line
from supercloud.model.reactions import LONGEST_S, Reaction

_OURS = uuid.UUID("7a3f0f4e-6a5b-4c53-9d1f-2e8b8a4f6c21")
#: STIX 2.1, 2.9: the namespace of deterministic ids of observables.
_OBSERVABLES = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")
#: STIX 2.1: of a sighting's count.
_MOST = 999_999_999
#: An instance's address is another's some time: so long after it was seen last an indicator is valid.
_VALID_S = LONGEST_S

Json = dict[str, Any]


def stix(incident: Incident, *, cloud: Id) -> Json:
    """A bundle: the incident, an indicator of each proven address, and where and how often it was seen."""
    whose = f"identity--{_id(cloud, 'identity')}"
    common = _common(incident.opened_at, incident.last_at, whose)
    about: Json = {
        "type": "incident",
        "id": f"incident--{_id(incident.id, 'incident')}",
        **common,
        "name": one_line(incident.title)[:256],
        "labels": [str(incident.severity), str(incident.state)],
    }
    identity: Json = {
        "type": "identity",
        "id": whose,
        **{name: common[name] for name in ("spec_version", "created", "modified")},
        "name": f"cloud {cloud}",
        "identity_class": "system",
    }
    objects = [identity, about]
    for address, seen in _by_address(incident.seen).items():
        objects += _of_address(incident, about["id"], whose, address, seen)
    return {
        "type": "bundle",
        "id": f"bundle--{_id(incident.id, f'bundle/{incident.version}')}",
        "objects": objects,
    }


def _of_address(
    incident: Incident, about: str, whose: str, address: Ipv4, seen: Sequence[Seen]
) -> list[Json]:
    first, last = min(one.first for one in seen), max(one.last for one in seen)
    many = min(_MOST, sum(one.many for one in seen))
    common = _common(min(first, incident.opened_at), incident.last_at, whose)
    observable = (
        f"ipv4-addr--{uuid.uuid5(_OBSERVABLES, json.dumps({'value': address}, separators=(',', ':')))}"
    )
    indicator = f"indicator--{_id(incident.id, address)}"
    observed = f"observed-data--{_id(incident.id, f'observed/{address}')}"
    return [
        {"type": "ipv4-addr", "spec_version": "2.1", "id": observable, "value": address},
        {
            "type": "indicator",
            "id": indicator,
            **common,
            "name": ", ".join(sorted({one_line(one.rule) for one in seen}))[:256],
            "indicator_types": ["malicious-activity"],
            "pattern": f"[ipv4-addr:value = '{address}']",
            "pattern_type": "stix",
            "valid_from": _moment(first),
            "valid_until": _moment(last + _VALID_S),
        },
        {
            "type": "observed-data",
            "id": observed,
            **common,
            "first_observed": _moment(first),
            "last_observed": _moment(last),
            "number_observed": max(1, many),
            "object_refs": [observable],
        },
        {
            "type": "sighting",
            "id": f"sighting--{_id(incident.id, f'sighting/{address}')}",
            **common,
            "sighting_of_ref": indicator,
            "observed_data_refs": [observed],
            "where_sighted_refs": [whose],
            "first_seen": _moment(first),
            "last_seen": _moment(last),
            "count": many,
        },
        {
            "type": "relationship",
            "id": f"relationship--{_id(incident.id, f'related/{address}')}",
            **common,
            "relationship_type": "related-to",
            "source_ref": indicator,
            "target_ref": about,
        },
    ]


def _by_address(seen: Sequence[Seen]) -> dict[Ipv4, list[Seen]]:
    found: dict[Ipv4, list[Seen]] = {}
    for one in seen:
        if one.source is not None:
            found.setdefault(one.source, []).append(one)
    return found


def _common(created: float, modified: float, whose: str) -> Json:
    return {
        "spec_version": "2.1",
        "created": _moment(created),
        "modified": _moment(max(created, modified)),
        "created_by_ref": whose,
    }


def _id(of: Id, what: str) -> str:
    return str(uuid.uuid5(_OURS, f"{of}/{what}"))


def _moment(at: float) -> str:
    return datetime.fromtimestamp(max(0.0, at), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


#: OCSF 2005: 1 new, 2 in progress, 3 on hold, 4 resolved, 5 closed.
_STATUS = {
    IncidentState.OPEN: 1,
    IncidentState.REACTING: 2,
    IncidentState.ESCALATED: 3,
    IncidentState.CONTAINED: 4,
    IncidentState.CLOSED: 5,
}


def ocsf(incident: Incident, reactions: Sequence[Reaction]) -> Json:
    """An event of class Incident Finding (2005), as it stands."""
    # 1 create, 2 update, 3 close.
    activity = 3 if incident.closed_at is not None else (1 if incident.version == 1 else 2)
    return {
        "class_uid": 2005,
        "category_uid": 2,
        "activity_id": activity,
        "type_uid": 200500 + activity,
        "severity_id": incident.severity.rank,
        "status_id": _STATUS[incident.state],
        "time": int(incident.last_at * 1000),
        "start_time": int(incident.opened_at * 1000),
        "end_time": int((incident.closed_at or incident.last_at) * 1000),
        "message": one_line(incident.title)[:256],
        "metadata": {
            "uid": f"{incident.id}/{incident.version}",
            "version": "1.3.0",
            "product": {"name": "supercloud", "vendor_name": "supercloud", "version": __version__},
        },
        "finding_info_list": [_finding_info(incident, one) for one in incident.seen],
        "unmapped": {
            "cloud": incident.cloud,
            "findings": incident.findings,
            "reactions": [
                {"state": one.state, "policy": one.policy, "command": one.command.as_openc2(one.decided_at)}
                for one in reactions
            ],
        },
    }


def _finding_info(incident: Incident, seen: Seen) -> Json:
    return {
        "uid": _id(incident.id, f"{seen.rule}/{seen.object.id}"),
        "title": one_line(seen.rule)[:256],
        "analytic": {"uid": one_line(seen.rule)[:200], "type_id": 1},
        "first_seen_time": int(seen.first * 1000),
        "last_seen_time": int(seen.last * 1000),
        "related_events_count": seen.many,
        "src_url": f"urn:uuid:{seen.object.id}",
        "types": [f"{seen.layer} {seen.object.kind}"],
    }
