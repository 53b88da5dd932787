"""Where latune keeps what it makes, for users who have no place for it."""

from __future__ import annotations

import warnings

import pytest

from latune import errors, paths


def test_a_user_without_a_home_has_a_folder_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("LATUNE_CACHE_DIR", raising=False)
    monkeypatch.setattr(paths, "user_cache_path", nowhere)
    monkeypatch.setattr(errors, "_said", set())
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="set LATUNE_CACHE_DIR"):
        warnings.simplefilter("error")
        paths.user_root()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paths.user_root().is_dir() and paths.user_root() == paths.user_root()
