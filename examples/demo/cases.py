"""The requests of the demo, each with what its answer must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from examples.demo import media
from examples.demo.media import Medium
from examples.demo.models import CLIPS, DRAWINGS, OLLAMA_TEXT, PAGES, SOUNDS, SPEECH, TEXT
from streams.messages import Request, encode
from tests.recordings import normalized

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Egypt?": "Cairo",
    "What is the largest ocean on Earth?": "Pacific",
    "What is the chemical formula of water?": "H2O",
    "Who painted the Mona Lisa?": "Leonardo da Vinci",
    "Who discovered gravity?": "Newton",
    "What language is spoken in Brazil?": "Portuguese",
    "What is the currency of Japan?": "Yen",
}
OLLAMA_QUESTIONS = {"What is the capital of Germany?": "Berlin", "What is the capital of Japan?": "Tokyo"}
HTTP_QUESTION = ("What is the opposite of hot?", "cold")

_CORRUPT_SOUND = b"RIFF\x24\x00\x00\x00WAVEfmt nothing that could be played"
_NO_JSON = b"\x89PNG\r\n\x1a\n"
_FOLDER = "demo"
_MARKS = {"kafka": "", "http": " (over HTTP)", "python": " (from Python)"}


@dataclass(frozen=True, slots=True)
class Case:
    """One request and what must come back for it."""

    request: Request
    shown_input: str
    expected: str = ""
    """What the answer must hold for text-generation, and be for every other task."""
    refusal: str = ""
    """The error code that must come instead of an answer."""
    way: Literal["kafka", "http", "python"] = "kafka"
    upload: Medium | None = None
    """What goes along with a request over HTTP."""
    raw: bytes | None = None
    """Sent in place of the request, so that it has no id and only a dead letter can tell of it."""

    @property
    def value(self) -> bytes:
        """What is produced to Kafka."""
        return encode(self.request) if self.raw is None else self.raw

    @property
    def group(self) -> tuple[str, str]:
        """Task and engine."""
        return self.request.task, self.request.engine

    def problem_of_answer(self, output: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the task's `output`, None where it is as it must be."""
        if self.refusal:
            return f"expected {self.refusal}, got an answer"
        answer = answer_of(output)
        if self.request.task == "text-generation":
            right = self.expected.lower() in answer.lower()
        elif self.request.task == "asr":
            right = normalized(answer) == self.expected
        else:
            right = answer == self.expected
        return None if right else f"expected {self.expected!r}"

    def problem_of_error(self, code: str, message: str) -> str | None:
        """Return what is wrong with that error, None where it is the one that must come."""
        if not self.refusal:
            return f"{code}: {message}"
        return None if code == self.refusal else f"expected {self.refusal}, got {code}"


def answer_of(output: Mapping[str, Any]) -> str:
    """Return the answer in a task's output as one text."""
    if "labels" in output:
        return str(output["labels"][0]["label"])
    if "pages" in output:
        return "\n\n".join(page["text"] for page in output["pages"])
    return str(output.get("generated_text") or output.get("text") or "").strip()


@dataclass(slots=True)
class Plan:
    """All cases, and the files that must lie on S3 for them."""

    bucket: str
    cases: list[Case] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Key -> content."""

    def put(self, name: str, content: bytes) -> str:
        """Take in a file and return its address."""
        key = f"{_FOLDER}/{name}"
        self.files[key] = content
        return self.address(name)

    def address(self, name: str) -> str:
        """Return the address of a file on S3, there or not."""
        return f"s3://{self.bucket}/{_FOLDER}/{name}"


def planned(bucket: str) -> Plan:
    """Return 36 requests that can be answered and 4 that must be refused, the tasks mixed."""
    plan = Plan(bucket)
    groups = [
        [_text(f"text-{number}", *question) for number, question in enumerate(QUESTIONS.items())],
        [_ollama(f"ollama-{number}", *question) for number, question in enumerate(OLLAMA_QUESTIONS.items())],
        [_on_s3(plan, "asr", SPEECH, "audio", one, language="en") for one in media.recordings()],
        [_on_s3(plan, "vlm", DRAWINGS, "image", one, max_new_tokens=8) for one in media.drawings()],
        [_on_s3(plan, "ocr", PAGES, "image", one) for one in media.scans()],
        [_on_s3(plan, "audio-classification", SOUNDS, "audio", one) for one in media.sounds()],
        [_on_s3(plan, "video-analysis", CLIPS, "video", one) for one in media.clips()],
        _documents(plan),
        [*_over_http(), _from_python()],
        _refused(plan),
    ]
    plan.cases = list(_in_turn(groups))
    return plan


def _text(identity: str, question: str, expected: str = "", **fields: Any) -> Case:
    request = Request(
        task="text-generation",
        engine=fields.get("engine", "transformers"),
        model_name=fields.get("model", TEXT),
        data={"inputs": question},
        options={"max_new_tokens": 16, "do_sample": False},
        id=identity,
    )
    way = fields.get("way", "kafka")
    return Case(request, question + _MARKS[way], expected, fields.get("refusal", ""), way)


def _ollama(identity: str, question: str, expected: str, **fields: Any) -> Case:
    return _text(identity, question, expected, engine="ollama", model=OLLAMA_TEXT, **fields)


def _media_request(task: str, model: str, name: str, data: dict[str, Any], **options: Any) -> Request:
    return Request(
        task=task,
        engine="transformers",
        model_name=model,
        data=data,
        options=options,
        id=f"{task}-{name}",
    )


def _on_s3(plan: Plan, task: str, model: str, data_field: str, medium: Medium, **options: Any) -> Case:
    data = {data_field: plan.put(medium.name, medium.content)}
    if medium.question:
        data["prompt"] = medium.question
    request = _media_request(task, model, medium.name, data, **options)
    shown = f"{medium.name}: {medium.question}" if medium.question else medium.name
    return Case(request, shown, medium.shows)


def _documents(plan: Plan) -> list[Case]:
    """Return a PDF as a whole, and its scanned page alone."""
    letter = media.letter()
    whole = _on_s3(plan, "document-analysis", PAGES, "document", letter)
    data = {**whole.request.data, "pages": [2]}
    one_page = _media_request("document-analysis", PAGES, f"{letter.name}-2", data)
    return [whole, Case(one_page, f"{letter.name}, page 2", letter.shows.split("\n\n")[1])]


def _over_http() -> list[Case]:
    """Return a file that comes along with its request, and a request in JSON."""
    sound = media.sounds()[-1]
    upload = _media_request("audio-classification", SOUNDS, f"upload-{sound.name}", {})
    return [
        Case(upload, f"{sound.name} (uploaded over HTTP)", sound.shows, way="http", upload=sound),
        _text("text-http", *HTTP_QUESTION, way="http"),
    ]


def _from_python() -> Case:
    question, answer = next(iter(OLLAMA_QUESTIONS.items()))
    return _ollama("ollama-python", question, answer, way="python")


def _refused(plan: Plan) -> list[Case]:
    corrupt = Medium("corrupt.wav", _CORRUPT_SOUND, "")
    missing = _media_request("asr", SPEECH, "missing", {"audio": plan.address("not-there.flac")})
    undecodable = Request(task="text-generation", engine="transformers", model_name=TEXT, data={})
    return [
        Case(_on_s3(plan, "asr", SPEECH, "audio", corrupt).request, corrupt.name, refusal="MEDIA_CORRUPT"),
        _text("unknown-model", "a model that nobody registered", model="no-such-model", refusal="UNKNOWN_MODEL"),
        Case(missing, "not-there.flac", refusal="MEDIA_NOT_FOUND"),
        Case(undecodable, "bytes that are not JSON", refusal="UNDECODABLE", raw=_NO_JSON),
    ]


def _in_turn(groups: Iterable[list[Case]]) -> Iterable[Case]:
    """Yield one case of each group in turn, so that no task waits for another one's last."""
    waiting = [list(group) for group in groups]
    while waiting := [group for group in waiting if group]:
        for group in waiting:
            yield group.pop(0)
