"""The kinds of things that users see and can watch."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Of what can be watched."""

    CLOUD = "cloud"
    BLANKET = "blanket"
    NETWORK = "network"
    VOLUME = "volume"
    INSTANCE = "instance"
    TRUST = "trust"
    FINDING = "finding"
    INCIDENT = "incident"  # of a blanket's own loop
    POLICY = "policy"  # a version of one, which is added and never changes
    ORDER = "order"
    ACT = "act"  # a privileged one, asked for by a provider
    OPERATION = "operation"
    REPORT = "report"
    IMAGE = "image"
    PROVIDER = "provider"
    MAINTENANCE = "maintenance"  # a window of a provider's
    PRINCIPAL = "principal"
    TOKEN = "token"  # noqa: S105 - no password
