"""The rules that a loop has before anybody gives it others, and the policy: to tell, and to do nothing."""

from __future__ import annotations

from supercloud.model.findings import Severity
from supercloud.security.policy import VERSION, PolicyFile
from supercloud.security.terms import Correlation, Counting, Exists, Has, Like, Rule, RuleSet, Some

#: Different ports of one address, within so many seconds: more than any protocol needs to find its own.
SCAN_PORTS, SCAN_S = 20, 10.0
#: Different addresses that one instance turns to: more than a busy server's peers in that time. Of its own
#: network it asks who has them first, and nothing more where nobody does.
SWEEP_ADDRESSES, SWEEP_S = 30, 10.0
_BEGINS, _ASKS = "connection-begins", "address-asked-for"
#: What a detector finds in a guest's kernel that no kernel does by itself.
_OF_A_KERNEL = ("hidden-process", "hidden-module", "hooked-system-call", "changed-kernel-text")

#: What is grouped by is said in the finding: a port's own address, which its detector has seen to be its own,
#: so that a policy can name it as `$source`.

RULES = RuleSet(
    rules=(
        Rule(
            id=_BEGINS,
            title="A connection begins",
            severity=Severity.INFORMATIONAL,
            source="firewall",
            condition=Has(field="dst_port", test=Exists(value=True)),
            reports=False,
        ),
        Rule(
            id=_ASKS,
            title="An address of its network is asked for",
            severity=Severity.INFORMATIONAL,
            source="neighbour",
            condition=Has(field="dst_ip", test=Exists(value=True)),
            reports=False,
        ),
        Rule(
            id="compromised-kernel",
            title="The guest's kernel is not its own any more",
            severity=Severity.CRITICAL,
            source="finding",
            condition=Some(of=tuple(Has(field="rule", test=Like(pattern=one)) for one in _OF_A_KERNEL)),
        ),
    ),
    correlations=(
        Correlation(
            id="port-scan",
            title="Scan for open ports",
            severity=Severity.HIGH,
            counting=Counting.VALUE_COUNT,
            rules=(_BEGINS,),
            group_by=("object", "src_ip", "dst_ip"),
            seconds=SCAN_S,
            least=SCAN_PORTS,
            values_of="dst_port",
        ),
        Correlation(
            id="address-sweep",
            title="Sweep over addresses",
            severity=Severity.HIGH,
            counting=Counting.VALUE_COUNT,
            rules=(_BEGINS,),
            group_by=("object", "src_ip", "dst_port"),
            seconds=SWEEP_S,
            least=SWEEP_ADDRESSES,
            values_of="dst_ip",
        ),
        Correlation(
            id="neighbour-sweep",
            title="Sweep over its own network",
            severity=Severity.HIGH,
            counting=Counting.VALUE_COUNT,
            rules=(_ASKS,),
            group_by=("object", "src_ip"),
            seconds=SWEEP_S,
            least=SWEEP_ADDRESSES,
            values_of="dst_ip",
        ),
    ),
)
POLICY = PolicyFile(version=VERSION)
