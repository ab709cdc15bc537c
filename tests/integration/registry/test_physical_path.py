"""Folders that are used where they are: only under a root that the operator allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.errors import ModelLoadFailed
from tests.integration.registry.folders import Make, content, model_folder


def test_a_physical_path_is_used_in_place_only_under_an_allowed_root(make: Make, name: str, folder: Path) -> None:
    registered = make().register_model_to_mlflow(
        model_name=name, model_source="local", tags={"physical_path": str(folder)}
    )
    with pytest.raises(ModelLoadFailed, match=r"mlflow\.physical_roots"):
        make().files.acquire(registered)
    assert make(physical_roots=[folder.parent]).files.acquire(registered) == folder.resolve()


def test_a_physical_path_that_is_not_trusted_is_passed_over_where_the_files_are_on_the_server(
    make: Make, name: str, folder: Path, tmp_path: Path
) -> None:
    secret = model_folder(tmp_path / "secret", weights=b"secret")
    model = make().register_model_to_mlflow(
        model_name=name, model_source="local", model_path=folder, tags={"physical_path": str(secret)}
    )
    assert content(make().files.acquire(model)) == content(folder)


def test_a_link_out_of_an_allowed_root_is_not_followed(make: Make, name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(folder)
    model = make().register_model_to_mlflow(
        model_name=name, model_source="local", tags={"physical_path": str(tmp_path / "root" / "link")}
    )
    with pytest.raises(ModelLoadFailed):
        make(physical_roots=[tmp_path / "root"]).files.acquire(model)
