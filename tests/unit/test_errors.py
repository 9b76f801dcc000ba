"""The tree of errors, as it comes back from a peer."""

from __future__ import annotations

import pytest

from supercloud.cli.declared import read
from supercloud.model import errors
from supercloud.model.errors import Failed, InvalidInput, SupercloudError, error_from

pytestmark = pytest.mark.unit


def test_a_peers_error_is_of_the_kind_that_has_its_code() -> None:
    """Though somewhere a special case of it, made in another way, is loaded."""
    special = [kind for kind in InvalidInput.__subclasses__() if "code" not in vars(kind)]
    assert special, f"{read.__name__} has one"
    for kind in errors._tree(SupercloudError):
        if "code" in vars(kind):
            made = error_from(kind.code, "no", "do this")
            assert type(made) is kind and (made.message, made.hint) == ("no", "do this")
    assert type(error_from("unheard-of", "no")) is Failed
