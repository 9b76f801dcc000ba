"""`pytest tests/simulation --simulation-seed N` replays one run of the simulation."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--simulation-seed", type=int, default=None, help="replay this run, and print its log")
