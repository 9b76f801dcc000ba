"""Detectors: what each makes of what it is shown. Pure: who shows it is another process."""

from __future__ import annotations

from typing import Final

#: By these names the loop knows them. Each is a process of its own, which loads no other's code.
PORT: Final = "port"
COMPONENTS: Final = "components"
GUEST: Final = "guest"
MEMORY: Final = "memory"
INTEGRITY: Final = "integrity"
#: Of MEMORY: what a rule of YARA's is called in a finding, before its name; and that a scan failed.
YARA_RULE: Final = "yara:"
CANNOT_SCAN: Final = "cannot-scan"
