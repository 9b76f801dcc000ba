"""The control plane of the contract tests, with its doubles, is what is fuzzed here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
