"""These are kept out of the project's own tests for now: `make -C microhypervisor test` runs them."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.system)
        item.add_marker(pytest.mark.timeout(900))
