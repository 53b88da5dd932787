"""What ``import latune`` gives: all public names, each loaded when it is first looked up."""

from __future__ import annotations

import pytest

import latune


@pytest.mark.parametrize("name", latune.__all__)
def test_a_public_name_is_listed_found_and_kept(name: str) -> None:
    assert name in dir(latune)
    found = getattr(latune, name)
    assert vars(latune)[name] is found is getattr(latune, name)


def test_another_name_is_an_error_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'latune' has no attribute 'attention'"):
        _ = latune.attention
