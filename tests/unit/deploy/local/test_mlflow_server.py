"""The database of the stack's MLflow: upgraded as a copy, so that an upgrade may be cut short at any point."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from deploy.local import StackError
from deploy.local.mlflow_server import MlflowServer

Upgrade = Callable[[Path], None]


@pytest.fixture
def server(tmp_path: Path) -> MlflowServer:
    part = MlflowServer(tmp_path, on_status=lambda status: None, abandon=Event())
    part.directory.mkdir()
    return part


def prepare(server: MlflowServer, monkeypatch: pytest.MonkeyPatch, upgrade: Upgrade) -> None:
    """Prepare the server; `upgrade` stands in for MLflow's own."""

    def run(self: MlflowServer, argv: Sequence[str]) -> None:
        assert argv[-1].startswith("sqlite:///")
        upgrade(Path(argv[-1].removeprefix("sqlite:///")))

    monkeypatch.setattr(MlflowServer, "run", run)
    server.prepare()


def write(database: Path, text: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table if not exists texts (text)")
        connection.execute("insert into texts values (?)", (text,))


def texts(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [text for (text,) in connection.execute("select text from texts")]


def cut_short(database: Path) -> None:
    write(database, "half")
    Path(f"{database}-journal").touch()
    raise StackError("killed")


def forbidden(database: Path) -> None:
    raise AssertionError(f"{database} is upgraded")


def test_a_new_database_is_made_beside_its_place_and_put_there_when_it_is_whole(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = server.directory / "mlflow.db"

    def upgrade(database: Path) -> None:
        write(database, "whole")
        assert not place.exists()

    prepare(server, monkeypatch, upgrade)
    assert texts(place) == ["whole"]


def test_what_an_upgrade_that_was_cut_short_left_is_thrown_away(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StackError, match="killed"):
        prepare(server, monkeypatch, cut_short)
    prepare(server, monkeypatch, lambda database: write(database, "whole"))
    assert texts(server.directory / "mlflow.db") == ["whole"]
    assert not list(server.directory.glob("upgraded*"))


def test_a_database_of_an_older_mlflow_is_kept_until_its_copy_is_upgraded(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = server.directory / "mlflow.db"
    write(place, "old")
    with pytest.raises(StackError, match="killed"):
        prepare(server, monkeypatch, cut_short)
    assert texts(place) == ["old"]
    prepare(server, monkeypatch, lambda database: write(database, "upgraded"))
    assert texts(place) == ["old", "upgraded"]


def test_a_database_of_this_mlflow_is_left_alone(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(server, monkeypatch, lambda database: write(database, "here"))
    prepare(server, monkeypatch, forbidden)
    assert texts(server.directory / "mlflow.db") == ["here"]
