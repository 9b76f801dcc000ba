"""Attackers' own tools: each file is a program for inside a guest, and nothing here runs on this machine.

They use what an ordinary Debian has and know nothing of supercloud. The worm goes to nothing but what
`hole.py` opens, which nobody but the demo does.
"""

from __future__ import annotations

import json
from pathlib import Path


def brings(tool: str, *arguments: str) -> str:
    """User data of a guest that runs one of them, as root, once it is up."""
    path = f"/root/{tool}"
    text = (Path(__file__).parent / tool).read_text()
    files = [{"path": path, "content": text, "permissions": "0700"}]
    return "#cloud-config\n" + json.dumps({"write_files": files, "runcmd": [[path, *arguments]]})


def text_of(tool: str) -> str:
    """What whoever attacks from outside has in hand."""
    return (Path(__file__).parent / tool).read_text()
