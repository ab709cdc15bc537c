"""`inferstream doctor`: what each check says of a part that is away, refuses or is misconfigured."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from streams.cli import doctor
from streams.cli.checks import Finding, check_broker, check_disk, check_s3
from streams.cli.doctor import examine, only_warn
from streams.cli.model_checks import check_mlflow, check_ollama, check_transformers
from streams.settings import Settings
from tests.unit.streams.conftest import CommandLine

CLOSED = "127.0.0.1:1"
AWAY: dict[str, Any] = {
    "kafka": {"bootstrap_servers": CLOSED},
    "s3": {"endpoint_url": f"http://{CLOSED}", "access_key": "me", "secret_key": "hunter2"},
    "mlflow": {"tracking_uri": f"http://me:hunter2@{CLOSED}"},
    "ollama": {"api_base": f"http://{CLOSED}"},
}
Answering = Callable[[int, str], str]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """`answering(status, body)` is the address of a server that answers every request so."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`libraries(source)` puts a torch with this source, and a plain transformers, before the real ones."""

    def put(torch: str) -> None:
        (tmp_path / "torch.py").write_text(torch)
        (tmp_path / "transformers.py").write_text("__version__ = '5'\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


def torch_with(devices: int) -> str:
    return (
        "__version__ = '2'\n"
        "class cuda:\n"
        f"    device_count = staticmethod(lambda: {devices})\n"
        "    get_device_name = staticmethod(lambda index: f'GPU {index}')\n"
    )


def one(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def s3_error(code: str) -> str:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'


@pytest.mark.logs_errors("aiokafka: Unable connect to")
def test_a_broker_that_is_away_is_an_error_with_its_cure() -> None:
    found = one(check_broker(Settings.model_validate(AWAY), ["asr"]))
    assert (found.name, found.status) == ("broker", "error")
    assert CLOSED in found.detail
    assert "inferstream up" in found.cure


def test_a_store_that_is_away_is_an_error() -> None:
    found = one(check_s3(Settings.model_validate(AWAY)))
    assert (found.name, found.status) == ("s3", "error")
    assert "s3.endpoint_url" in found.cure


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_refused_keys_are_an_error_that_names_the_settings(code: str, answering: Answering) -> None:
    store = answering(403, s3_error(code))
    found = one(
        check_s3(Settings.model_validate({"s3": {"endpoint_url": store, "access_key": "me", "secret_key": "x"}}))
    )
    assert (found.status, found.cure) == ("error", "correct s3.access_key and s3.secret_key")
    assert code in found.detail


def test_keys_that_may_not_list_buckets_are_fine(answering: Answering) -> None:
    store = answering(403, s3_error("AccessDenied"))
    settings = Settings.model_validate({"s3": {"endpoint_url": store, "access_key": "me", "secret_key": "x"}})
    assert one(check_s3(settings)).status == "ok"
    found = one(check_s3(settings, "recordings"))
    assert (found.status, "bucket recordings" in found.detail) == ("error", True)


def test_a_bucket_that_is_not_there_is_an_error(answering: Answering) -> None:
    settings = Settings.model_validate(
        {"s3": {"endpoint_url": answering(404, ""), "access_key": "me", "secret_key": "x"}}
    )
    found = one(check_s3(settings, "recordings"))
    assert (found.status, "no bucket recordings" in found.detail) == ("error", True)
    odd = one(check_s3(settings, "B@d"))
    assert (odd.status, odd.detail, "--bucket" in odd.cure) == (
        "error",
        "'B@d' is not a valid name of a bucket",
        True,
    )


def test_an_mlflow_that_is_away_is_an_error_without_its_password() -> None:
    found = one(check_mlflow(Settings.model_validate(AWAY)))
    assert (found.name, found.status) == ("mlflow", "error")
    assert "mlflow.tracking_uri" in found.cure
    assert "hunter2" not in found.detail


def test_an_mlflow_that_answers_is_shown_with_its_version(answering: Answering) -> None:
    found = one(check_mlflow(Settings.model_validate({"mlflow": {"tracking_uri": answering(200, "3.17.2")}})))
    assert (found.status, "MLflow 3.17.2" in found.detail) == ("ok", True)


def test_an_ollama_is_shown_with_its_version_or_its_cure(answering: Answering) -> None:
    found = one(check_ollama(Settings.model_validate({"ollama": {"api_base": answering(200, '{"version": "0.9.1"}')}})))
    assert (found.status, "Ollama 0.9.1" in found.detail) == ("ok", True)
    away = one(check_ollama(Settings.model_validate(AWAY)))
    assert (away.status, "ollama.api_base" in away.cure) == ("error", True)
    no_ollama = one(check_ollama(Settings.model_validate({"ollama": {"api_base": answering(200, "<html>")}})))
    assert no_ollama.status == "error"


def test_libraries_that_cannot_be_imported_are_an_error(libraries: Callable[[str], None]) -> None:
    libraries("raise ImportError('libgomp.so.1 is missing')\n")
    found = one(check_transformers(Settings(), timeout_s=60))
    assert (found.status, "libgomp.so.1 is missing" in found.detail) == ("error", True)
    assert "inferstream[torch]" in found.cure


def test_a_device_that_is_not_there_is_an_error(libraries: Callable[[str], None]) -> None:
    libraries(torch_with(devices=1))
    found = one(check_transformers(Settings.model_validate({"transformers": {"device": "cuda:1"}}), timeout_s=60))
    assert (found.status, "sees 1 CUDA devices" in found.detail) == ("error", True)
    assert "transformers.device=auto" in found.cure


@pytest.mark.parametrize(
    ("devices", "device", "said"),
    [(0, "auto", "on the CPU"), (1, "auto", "on GPU 0"), (1, "cpu", "on the CPU")],
)
def test_the_device_that_will_be_used_is_said(
    devices: int, device: str, said: str, libraries: Callable[[str], None]
) -> None:
    libraries(torch_with(devices))
    found = one(check_transformers(Settings.model_validate({"transformers": {"device": device}}), timeout_s=60))
    assert (found.status, said in found.detail) == ("ok", True)


def test_libraries_that_take_too_long_are_only_a_warning(libraries: Callable[[str], None]) -> None:
    libraries("import time; time.sleep(600)\n")
    assert one(check_transformers(Settings(), timeout_s=0.5)).status == "warning"


def test_the_disk_is_judged_by_what_is_free(tmp_path: Path) -> None:
    def with_free(free: int) -> Finding:
        return one(check_disk(tmp_path / "new" / "cache", lambda: {"status": "ok", "free_bytes": free}))

    assert with_free(100 * 1024**3).status == "ok"
    assert with_free(1024**3).status == "warning"
    full = one(check_disk(tmp_path, lambda: {"status": "error", "error": "the disk is full"}))
    assert (full.status, "cache.directory" in full.cure) == ("error", True)


def test_a_cache_folder_under_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = one(check_disk(tmp_path / "file" / "cache", lambda: {"status": "ok", "free_bytes": 10**12}))
    assert (found.status, "cannot be used" in found.detail) == ("error", True)


def test_only_errors_become_warnings() -> None:
    assert only_warn(Finding("ollama", "error", "away"), "not needed") == Finding(
        "ollama", "warning", "away (not needed)"
    )
    assert only_warn(Finding("ollama", "ok", "there"), "not needed").status == "ok"


@pytest.mark.logs_errors("aiokafka: Unable connect to")
def test_a_check_that_hangs_is_cut_off_and_the_others_are_heard(
    monkeypatch: pytest.MonkeyPatch, libraries: Callable[[str], None]
) -> None:
    libraries(torch_with(devices=0))
    released = threading.Event()

    def hanging(*_: object) -> list[Finding]:
        released.wait(60)
        return []

    monkeypatch.setattr(doctor, "LONGEST_S", 1.0)
    monkeypatch.setattr("streams.cli.checks.check_s3", hanging)
    start = time.monotonic()
    found = {finding.name: finding for finding in examine(Settings.model_validate(AWAY))}
    released.set()
    assert time.monotonic() - start < 15
    assert (found["s3"].status, found["s3"].detail) == ("error", "no answer within 1 s")
    assert found["ollama"].status == "warning", "no registered model needs it"
    assert "models" not in found, "MLflow is away, which is said once"


@pytest.mark.parametrize(("origin", "status"), [("default", "warning"), ("environment", "error")])
def test_an_absent_ollama_is_an_error_where_a_setting_says_where_it_is(origin: str, status: str) -> None:
    findings = [Finding("ollama", "error", "away", "start it"), Finding("s3", "error", "away")]
    ollama, s3 = doctor.if_ollama_is_unset(findings, {"ollama.api_base": origin})
    assert (ollama.status, s3.status) == (status, "error")
    assert ollama.cure == "start it"


@pytest.mark.logs_errors("aiokafka: Unable connect to")
def test_a_plugin_that_cannot_be_imported_is_an_error(
    monkeypatch: pytest.MonkeyPatch, libraries: Callable[[str], None]
) -> None:
    libraries(torch_with(devices=0))
    monkeypatch.setattr(doctor, "LONGEST_S", 0.2)
    found = examine(Settings.model_validate({**AWAY, "worker": {"plugins": ["no_such_module", "json"]}}))
    assert [finding.status for finding in found if finding.name == "plugins"] == ["error", "ok"]
    assert "no_such_module" in found[0].detail


@pytest.mark.logs_errors("aiokafka: Unable connect to")
def test_settings_of_the_worker_and_of_engines_that_would_stop_its_start_are_errors(
    monkeypatch: pytest.MonkeyPatch, libraries: Callable[[str], None]
) -> None:
    libraries(torch_with(devices=0))
    monkeypatch.setattr(doctor, "LONGEST_S", 0.2)
    settings = {**AWAY, "worker": {"tasks": ["asr", "orc"]}, "engines": {"olama": {"x": 1}}}
    [engine, *_] = examine(Settings.model_validate(settings))
    assert (engine.name, engine.status) == ("engines", "error")
    assert "did you mean ollama?" in engine.cure
    [task, *_] = examine(Settings.model_validate({**settings, "engines": {}}))
    assert (task.name, task.status, task.detail) == (
        "tasks",
        "error",
        "worker.tasks: 'orc' is not a task here",
    )
    assert "did you mean ocr?" in task.cure


@pytest.mark.waits
def test_with_everything_away_it_exits_with_1_and_says_what_to_do(
    command_line: CommandLine, libraries: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries(torch_with(devices=0))
    monkeypatch.delenv("COLUMNS")  # as for grep: no line is broken where no terminal bounds it
    away = [f"--set={section}.{name}={value}" for section, body in AWAY.items() for name, value in body.items()]
    lines = command_line("doctor", *away)
    assert lines.exit_code == 1
    assert "✗ broker" in lines.stdout
    assert f"kafka.bootstrap_servers={CLOSED}: nothing listens there" in lines.stdout
    assert "! ollama" in lines.stdout
    assert "→ start one with `inferstream up`" in lines.stdout
    assert "to fix" in lines.stdout
    report = json.loads(command_line("doctor", "--json", *away).stdout)
    assert report["ok"] is False
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert statuses["settings"] == "ok"
    assert statuses["broker"] == statuses["s3"] == statuses["mlflow"] == "error"
    assert all(check["cure"] for check in report["checks"] if check["status"] != "ok")
    assert "hunter2" not in json.dumps(report) + lines.output


BROKER_AWAY = Finding("broker", "error", "no broker answers", "start one with `inferstream up`")
MLFLOW_AWAY = Finding("mlflow", "error", "no MLflow answers", "start one with `inferstream up`")


@pytest.mark.parametrize(
    ("found", "settings", "exit_code", "said"),
    [
        ([BROKER_AWAY, MLFLOW_AWAY], (), 0, "nothing runs here; `inferstream up` starts everything"),
        ([BROKER_AWAY, MLFLOW_AWAY], ("kafka.bootstrap_servers=kafka:9092",), 1, "2 to fix"),
        ([BROKER_AWAY, MLFLOW_AWAY], ("mlflow.tracking_uri=http://mlflow:5000",), 1, "2 to fix"),
        ([BROKER_AWAY, Finding("mlflow", "ok", "MLflow answers")], (), 1, "1 to fix"),
        ([Finding("broker", "ok", "answers"), MLFLOW_AWAY], (), 1, "1 to fix"),
        ([BROKER_AWAY, MLFLOW_AWAY, Finding("disk", "error", "full", "free some")], (), 1, "1 to fix"),
    ],
    ids=["nothing set up", "broker named", "MLflow named", "MLflow runs", "broker runs", "disk full"],
)
def test_a_machine_on_which_nothing_was_set_up_has_nothing_to_mend(
    found: list[Finding],
    settings: tuple[str, ...],
    exit_code: int,
    said: str,
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: list(found))
    given = [f"--set={one}" for one in settings]
    lines = command_line("doctor", *given)
    assert (lines.exit_code, said in lines.stdout) == (exit_code, True), lines.stdout
    report = json.loads(command_line("doctor", "--json", *given).stdout)
    is_idle = {BROKER_AWAY, MLFLOW_AWAY} <= set(found) and not settings
    assert (report["ok"], report["running"]) == (exit_code == 0, not is_idle)
    if exit_code == 0:
        assert "! broker" in lines.stdout
        assert "no broker answers (no setting names one)" in lines.stdout
