"""Resolving names: what is asked when, by how many threads, and what goes on while the server is away."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from engines.config.settings import CacheSettings, MlflowSettings
from engines.models import model_manager as models_module
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ModelReference, ResolvedModel
from handlers.errors import InternalError, InvalidRequest, RegistryUnavailable, UnknownModel

DEADLINE_S = 20.0


class Server:
    """Stands for MLflow where a test needs it to hang, fail or change at one exact moment."""

    def __init__(self) -> None:
        self.versions = {"a": "1", "b": "1"}
        self.asked: Counter[str] = Counter()
        self.before: dict[str, Callable[[], object]] = {}
        self.is_away = False

    def client(self) -> None:
        """Nothing to import here."""

    def look_up(self, reference: ModelReference) -> ResolvedModel:
        self.asked[str(reference)] += 1
        if reference.name in self.before:
            self.before[reference.name]()
        if self.is_away:
            raise RegistryUnavailable("the model registry at http://nowhere did not serve this")
        if reference.name not in self.versions:
            raise UnknownModel(f"no model {reference.name}")
        return ResolvedModel(reference.name, self.versions[reference.name], f"s3://bucket/{reference.name}", {"k": "v"})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(server: Server, clock: Clock, tmp_path: Path) -> Callable[..., ModelManager]:
    def made(**mlflow: object) -> ModelManager:
        settings = MlflowSettings.model_validate({"alias_poll_s": 5.0, **mlflow})
        manager = ModelManager(settings, CacheSettings(directory=tmp_path), clock=clock)
        manager.registry = server  # type: ignore[assignment]
        return manager

    return made


@pytest.fixture
def models(make: Callable[..., ModelManager]) -> ModelManager:
    return make()


def test_an_answer_is_used_until_the_next_poll(models: ModelManager, server: Server, clock: Clock) -> None:
    assert models.resolve("a").version == "1"
    server.versions["a"] = "2"
    clock.now = 4.9
    assert models.resolve("a").version == "1"
    clock.now = 5.1
    assert models.resolve("a").version == "2"
    assert server.asked["a"] == 2


def test_renewing_in_time_spares_requests_the_question(models: ModelManager, server: Server, clock: Clock) -> None:
    models.resolve("a")
    server.versions["a"] = "2"
    clock.now = 2.4
    assert models.renew("a").version == "1"
    clock.now = 2.6
    assert models.renew("a").version == "2"
    clock.now = 7.5
    assert models.resolve("a").version == "2"
    assert server.asked["a"] == 2


def test_renewing_while_the_server_is_away_changes_nothing(models: ModelManager, server: Server, clock: Clock) -> None:
    models.resolve("a")
    server.is_away = True
    for clock.now in (4.0, 6.0, 9.0, 12.0):
        assert models.renew("a").version == "1"
    server.is_away = False
    server.versions["a"] = "2"
    clock.now = 20.0
    assert models.renew("a").version == "2"


def test_one_question_per_name_however_many_threads_wait(models: ModelManager, server: Server) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        assert go_on.wait(DEADLINE_S)

    server.before["a"] = hold
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(models.resolve, "a") for _ in range(8)]
        assert asked.wait(DEADLINE_S)
        go_on.set()
        assert {future.result(DEADLINE_S).key for future in waiting} == {"a/1"}
    assert server.asked["a"] == 1


def test_an_answer_that_came_while_a_caller_made_up_its_mind_is_not_asked_for_again(
    models: ModelManager, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between() -> None:
        """Stand for the moment after a caller found no answer and before it asks."""
        monkeypatch.setattr(server, "client", lambda: None)
        models.resolve("a")

    monkeypatch.setattr(server, "client", between)
    assert models.resolve("a").key == "a/1"
    assert server.asked["a"] == 1


def test_a_name_that_hangs_holds_up_no_other(models: ModelManager, server: Server) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        assert go_on.wait(DEADLINE_S)

    server.before["a"] = hold
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(models.resolve, "a")
        assert asked.wait(DEADLINE_S)
        assert models.resolve("b").key == "b/1"
        go_on.set()
        assert slow.result(DEADLINE_S).key == "a/1"


def test_a_server_that_went_away_leaves_the_last_answer(models: ModelManager, server: Server, clock: Clock) -> None:
    models.resolve("a")
    server.is_away = True
    clock.now = 6.0
    assert models.resolve("a").version == "1"
    assert models.resolve("a").version == "1"
    assert server.asked["a"] == 2, "the answer in hand serves until the next poll"


def test_a_server_that_came_back_is_followed_again(models: ModelManager, server: Server, clock: Clock) -> None:
    models.resolve("a")
    server.is_away = True
    clock.now = 6.0
    models.resolve("a")
    server.is_away, server.versions["a"] = False, "2"
    clock.now = 12.0
    assert models.resolve("a").version == "2"


def test_a_server_that_hangs_costs_known_names_only_a_moment(
    models: ModelManager, server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "PATIENCE_S", 0.01)
    models.resolve("a")
    go_on, news = threading.Event(), threading.Event()
    server.before["a"] = lambda: go_on.wait(DEADLINE_S)
    clock.now = 6.0
    assert models.resolve("a").version == "1"
    server.versions["a"] = "2"
    go_on.set()
    for _ in range(2000):  # the question asked above is answered in the end, and its answer used
        if models.resolve("a").version == "2":
            return
        news.wait(0.005)
    raise AssertionError("the late answer was never used")


def test_an_answer_that_came_when_a_caller_had_lost_its_patience_is_not_turned_back(
    models: ModelManager, server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.resolve("a")
    clock.now = 5.1
    server.versions["a"] = "2"
    start = models._lookups.start

    def answered_too_late(reference: ModelReference, ask: Callable[[], ResolvedModel]) -> Future[ResolvedModel]:
        assert start(reference, ask).result(DEADLINE_S).version == "2"
        clock.now += 5.1  # by now that answer is as old as the caller's own
        return Future()

    monkeypatch.setattr(models._lookups, "start", answered_too_late)
    monkeypatch.setattr(models_module, "PATIENCE_S", 0.0)
    assert models.resolve("a").version == "2"
    monkeypatch.undo()
    server.is_away = True
    assert models.resolve("a").version == "2"


def test_a_new_process_goes_on_with_the_last_answer_on_disk(make: Callable[..., ModelManager], server: Server) -> None:
    before = make().resolve("a")
    server.is_away = True
    assert make().resolve("a") == before


def test_the_answers_of_another_server_do_not_count(make: Callable[..., ModelManager], server: Server) -> None:
    make().resolve("a")
    server.is_away = True
    with pytest.raises(RegistryUnavailable):
        make(tracking_uri="http://elsewhere:5000").resolve("a")


def test_an_answer_on_disk_that_is_damaged_counts_as_none(
    make: Callable[..., ModelManager], server: Server, tmp_path: Path
) -> None:
    make().resolve("a")
    (tmp_path / ".resolutions" / "a.json").write_text('{"tracking_uri": ')
    server.is_away = True
    with pytest.raises(RegistryUnavailable):
        make().resolve("a")
    server.is_away = False
    assert make().resolve("a").key == "a/1"


def test_a_name_never_resolved_is_an_error_to_retry_while_the_server_is_away(
    models: ModelManager, server: Server
) -> None:
    server.is_away = True
    with pytest.raises(RegistryUnavailable) as failure:
        models.resolve("a")
    assert failure.value.retryable
    server.is_away = False
    assert models.resolve("a").key == "a/1"


def test_a_server_that_hangs_names_its_setting_to_those_who_cannot_wait(
    make: Callable[..., ModelManager], server: Server
) -> None:
    go_on = threading.Event()
    server.before["a"] = lambda: go_on.wait(DEADLINE_S)
    try:
        with pytest.raises(RegistryUnavailable, match=r"mlflow\.tracking_uri"):
            make(timeout_s=0.05).resolve("a")
    finally:
        go_on.set()


def test_a_model_that_is_gone_is_forgotten(
    models: ModelManager, server: Server, clock: Clock, make: Callable[..., ModelManager]
) -> None:
    models.resolve("a")
    del server.versions["a"]
    clock.now = 6.0
    with pytest.raises(UnknownModel):
        models.resolve("a")
    server.is_away = True
    with pytest.raises(RegistryUnavailable):
        make().resolve("a")


@pytest.mark.logs_errors("look_up_failed")
def test_a_fault_in_the_look_up_reaches_the_caller_and_blocks_nobody(models: ModelManager, server: Server) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    server.before["a"] = broken
    with pytest.raises(InternalError):
        models.resolve("a")
    server.before.clear()
    assert models.resolve("a").key == "a/1"


@pytest.mark.parametrize(
    "name", ["", "a b", "a@", "a@b@c", "a/0", "a/x", "a/1/2", "../a", "..", "ä", "a" * 129, "a@b/1", "a\n"]
)
def test_a_name_of_another_form_is_refused_with_the_forms(models: ModelManager, server: Server, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name@alias or name/version"):
        models.resolve(name)
    assert not server.asked


@pytest.mark.parametrize("name", ["a", "a@champion", "a/12", "A.b-c_1"])
def test_the_three_forms_of_a_name_reach_the_server_as_they_are(
    models: ModelManager, server: Server, name: str
) -> None:
    server.versions["A.b-c_1"] = "1"
    models.resolve(name)
    assert server.asked == {name: 1}


def test_a_registry_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        mlflow = MlflowSettings(tracking_uri=f"http://someone:hunter2@{address}", timeout_s=0.2, max_retries=0)
        models = ModelManager(mlflow, CacheSettings(directory=tmp_path))
        with pytest.raises(RegistryUnavailable, match=address) as raised:
            models.resolve("a-model")
    assert "hunter2" not in raised.value.message


def test_of_many_names_those_not_asked_for_lately_are_only_on_disk(
    models: ModelManager, server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "_MOST_KNOWN", 20)
    for number in range(1, 100):
        clock.now += 1.0
        models.resolve(f"a/{number}")
    assert len(models._known) <= 20
    server.is_away = True
    assert models.resolve("a/1").name == "a"
