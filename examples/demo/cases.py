"""The requests of the demo, each with what its answer must show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streams.messages import Request, Result, encode
from tests.recordings import Recording, encoded, librivox_recordings, normalized

TEXT_MODEL = "smollm2-135m-instruct"
SPEECH_MODEL = "whisper-base"

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "What is the capital of Germany?": "Berlin",
    "What is the capital of Egypt?": "Cairo",
    "What is the capital of Greece?": "Athens",
    "What is the largest ocean on Earth?": "Pacific",
    "What is the opposite of hot?": "cold",
    "What is the chemical formula of water?": "H2O",
    "Who painted the Mona Lisa?": "Leonardo da Vinci",
    "Who discovered gravity?": "Newton",
    "What language is spoken in Brazil?": "Portuguese",
    "What is the currency of Japan?": "Yen",
}
RECORDING_FORMATS = (("FLAC", 16_000, 1), ("WAV", 44_100, 2), ("OGG", 22_050, 1), ("MP3", 48_000, 2))


@dataclass(frozen=True, slots=True)
class Case:
    """One message to produce and what must come back for it."""

    task: str
    model: str
    shown_input: str
    value: bytes
    identity: str = ""
    """Id of the result; empty where none can be known, so that a dead letter must come."""
    expected: str = ""
    """What the answer must hold; for speech, the whole transcript."""
    refusal: str = ""
    """The error code that must come instead of an answer."""

    def problem(self, result: Result) -> str | None:
        """Return what is wrong with `result`, None where it is as it must be."""
        if self.refusal:
            code = result.error.code if result.error else "an answer"
            return None if code == self.refusal else f"expected {self.refusal}, got {code}"
        if result.error is not None:
            return f"{result.error.code}: {result.error.message}"
        text = answer_of(result)
        right = (
            normalized(text) == self.expected if self.task == "asr" else self.expected.lower() in text.lower()
        )
        return None if right else f"expected {self.expected!r}"


@dataclass(frozen=True, slots=True)
class Upload:
    """One recording to put on S3."""

    key: str
    content: bytes


def answer_of(result: Result) -> str:
    """Return the text of an answer."""
    output = result.result or {}
    return str(output.get("generated_text") or output.get("text") or "").strip()


def uploads() -> list[Upload]:
    """Return two real recordings, each in four formats, rates and channel counts, and one that is corrupt."""
    files = [
        Upload(
            _key(recording, file_format, rate), encoded(recording, file_format, rate=rate, channels=channels)
        )
        for recording in librivox_recordings()
        for file_format, rate, channels in RECORDING_FORMATS
    ]
    return [*files, Upload("demo/corrupt.wav", b"RIFF\x24\x00\x00\x00WAVEfmt nothing that could be played")]


def cases(bucket: str) -> list[Case]:
    """Return 20 requests that can be answered and 4 that must be refused, mixed."""
    text = [
        _text(f"text-{number}", question, answer)
        for number, (question, answer) in enumerate(QUESTIONS.items())
    ]
    speech = [
        _speech(f"speech-{key}", bucket, key, recording.transcript)
        for recording in librivox_recordings()
        for key in (_key(recording, file_format, rate) for file_format, rate, _ in RECORDING_FORMATS)
    ]
    refused = [
        _speech("corrupt-audio", bucket, "demo/corrupt.wav", refusal="MEDIA_CORRUPT"),
        _text("unknown-model", "Is anybody there?", model="no-such-model", refusal="UNKNOWN_MODEL"),
        _speech("missing-key", bucket, "demo/not-there.flac", refusal="MEDIA_NOT_FOUND"),
        Case("text-generation", "", "bytes that are no JSON", b"\x89PNG\r\n\x1a\n", refusal="UNDECODABLE"),
    ]
    mixed: list[Case] = []
    while text or speech or refused:
        for group, count in ((text, 3), (speech, 2), (refused, 1)):
            mixed += group[:count]
            del group[:count]
    return mixed


def _key(recording: Recording, file_format: str, rate: int) -> str:
    return f"demo/{recording.path.stem}-{rate}.{file_format.lower()}"


def _text(
    identity: str, question: str, expected: str = "", *, model: str = TEXT_MODEL, refusal: str = ""
) -> Case:
    request = Request(
        task="text-generation",
        engine="transformers",
        model_name=model,
        data={"inputs": question},
        options={"max_new_tokens": 24, "do_sample": False},
        id=identity,
    )
    return Case(request.task, model, question, encode(request), identity, expected, refusal)


def _speech(identity: str, bucket: str, key: str, expected: str = "", *, refusal: str = "") -> Case:
    data: dict[str, Any] = {"audio": f"s3://{bucket}/{key}"}
    request = Request(
        task="asr",
        engine="transformers",
        model_name=SPEECH_MODEL,
        data=data,
        options={"language": "en"},
        id=identity,
    )
    return Case(request.task, SPEECH_MODEL, key, encode(request), identity, expected, refusal)
