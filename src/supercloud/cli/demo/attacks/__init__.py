"""The attacks on the running demo, each by its name: what it is, and how it is made.

An attacker is a guest's own shell, root in a blanket, or somebody outside. Each raises NotContained if it got
further than it should have, and NotMade or any other SupercloudError if it could not be made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supercloud.cli.demo.attacks.component import kill
from supercloud.cli.demo.attacks.domain import turn
from supercloud.cli.demo.attacks.process import hide
from supercloud.cli.demo.attacks.scan import scan
from supercloud.cli.demo.attacks.worm import spread
from supercloud.cli.demo.stage import Outcome, Stage

ATTACKS: Mapping[str, tuple[str, Callable[[Stage, Outcome], None]]] = {
    "scan": ("an instance scans its network", scan),
    "process": ("a process hides in a guest's kernel", hide),
    "worm": ("a worm spreads over domains", spread),
    "component": ("a component is killed", kill),
    "domain": ("a domain turns hostile", turn),
}
