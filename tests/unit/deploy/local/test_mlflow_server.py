"""The database of the stack's MLflow: upgraded as a copy, so that an upgrade may be cut short at any point."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from deploy.local.mlflow_server import MlflowServer


@pytest.fixture
def server(tmp_path: Path) -> MlflowServer:
    part = MlflowServer(tmp_path, on_status=lambda status: None, abandon=Event())
    part.directory.mkdir()
    part.ports = {"main": 4711}
    return part


def write(database: Path, text: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table if not exists texts (text)")
        connection.execute("insert into texts values (?)", (text,))


def texts(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [text for (text,) in connection.execute("select text from texts")]


def target(server: MlflowServer) -> Path:
    """Return the database that is upgraded before the server starts."""
    command = server.first_command()
    assert command is not None
    assert command[-1].startswith("sqlite:///")
    return Path(command[-1].removeprefix("sqlite:///"))


def test_a_new_database_is_made_beside_its_place_and_put_there_when_it_is_whole(server: MlflowServer) -> None:
    server.prepare()
    write(target(server), "whole")
    place = server.directory / "mlflow.db"
    assert not place.exists()
    server.command()
    assert texts(place) == ["whole"]
    assert server.first_command() is None


def test_what_an_upgrade_that_was_cut_short_left_is_thrown_away(server: MlflowServer) -> None:
    server.prepare()
    leftover = target(server)
    write(leftover, "half")
    Path(f"{leftover}-journal").touch()
    server.prepare()
    assert not list(server.directory.iterdir())


def test_a_database_of_an_older_mlflow_is_kept_until_its_copy_is_upgraded(server: MlflowServer) -> None:
    place = server.directory / "mlflow.db"
    write(place, "old")
    server.prepare()
    write(target(server), "upgraded")
    assert texts(place) == ["old"]
    server.prepare()
    assert texts(target(server)) == ["old"]
    server.command()
    assert texts(place) == ["old"]


def test_a_database_of_this_mlflow_is_left_alone(server: MlflowServer) -> None:
    server.prepare()
    write(target(server), "here")
    server.command()
    server.prepare()
    assert server.first_command() is None
    assert texts(server.directory / "mlflow.db") == ["here"]
