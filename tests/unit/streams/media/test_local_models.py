"""Models of the catalogue as the local platform registers them."""

from __future__ import annotations

from pathlib import Path

from deploy.models import CATALOGUE
from streams.local.platform import LocalModel


def test_a_prepared_model_is_registered_by_its_place_with_the_tags_of_its_recipe() -> None:
    model = LocalModel.prepared("whisper-base", Path("/models/whisper-base-1"))
    assert (model.name, model.source, model.folder) == ("whisper-base", "local", None)
    assert model.tags == {**CATALOGUE["whisper-base"].tags, "physical_path": "/models/whisper-base-1"}
