"""Models by reference: what a caller is told when the hub cannot be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.hub import fetch_from_hub
from engines.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed, RegistryUnavailable


def test_a_hub_that_cannot_be_reached_is_an_error_to_retry(tmp_path: Path) -> None:
    # The tests run with HF_HUB_OFFLINE=1, which the hub's client treats like a line that is down.
    with pytest.raises(RegistryUnavailable, match="org/tiny"):
        fetch_from_hub(ResolvedModel("m", "1", "hf://org/tiny"), tmp_path)


def test_a_reference_that_is_no_hub_name_is_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="m/1"):
        fetch_from_hub(ResolvedModel("m", "1", "hf://org/tiny/too/long"), tmp_path)
