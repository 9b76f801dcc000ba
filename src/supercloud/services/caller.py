"""On whose behalf something is asked, and what of everything that lets it see and change."""

from __future__ import annotations

from dataclasses import dataclass

from supercloud.model.names import Id


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Of one request, already found to be allowed. To nobody else does anything outside of `clouds` exist."""

    principal: Id
    operator: bool
    undivided: bool  # its token is as it was minted
    revocation_ids: tuple[str, ...]  # of its token
    clouds: tuple[Id, ...]  # its own ones in which its token allows what it asks for
