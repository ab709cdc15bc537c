"""Makes segments and words with their times from the tokens of a speech model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Languages written without spaces between words: every character may begin one.
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech: its time in the whole recording, in seconds, its text and its words."""

    start: float
    end: float
    text: str
    words: tuple[dict[str, Any], ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)
    """How sure the model is of it, by name; empty where the model has none."""

    def as_dict(self) -> dict[str, Any]:
        """Return {"start", "end", "text"} and the measures; seconds to the hundredth, the model's own resolution."""
        times = {"start": round(self.start, 2), "end": round(self.end, 2)}
        return {**times, "text": self.text.strip(), **self.measures}


def segments_at_pauses(words: Sequence[dict[str, Any]], *, pause_s: float) -> list[Segment]:
    """Return `words`, [{"word", "start", "end"}] in order, in segments with at least `pause_s` between them."""
    groups: list[list[dict[str, Any]]] = []
    for word in words:
        if groups and word["start"] - groups[-1][-1]["end"] < pause_s:
            groups[-1].append(word)
        else:
            groups.append([word])
    return [
        Segment(group[0]["start"], group[-1]["end"], " ".join(word["word"] for word in group), tuple(group))
        for group in groups
    ]


def join_texts(segments: Sequence[Segment], language: str | None) -> str:
    texts = [segment.text.strip() for segment in segments]
    return ("" if language in UNSPACED_LANGUAGES else " ").join(text for text in texts if text)


def words_of(
    spoken: Iterable[tuple[int, float]],
    *,
    decode: Callable[[list[int]], str],
    language: str | None,
    end: float,
) -> tuple[dict[str, Any], ...]:
    """Return [{"word", "start", "end"}] for `spoken`: text tokens, each with its time in seconds. A word ends where
    the next one begins, the last one at `end`. Punctuation belongs to the word before it."""
    words: list[tuple[str, float]] = []
    pending: list[int] = []
    since = 0.0
    for token, time in spoken:
        if not pending:
            since = time
        pending.append(token)
        piece = decode(pending)
        if "\ufffd" in piece:  # a character spread over several tokens
            continue
        pending = []
        begins = piece.startswith(" ") or language in UNSPACED_LANGUAGES
        if words and (not begins or not any(char.isalnum() for char in piece)):
            words[-1] = (words[-1][0] + piece, words[-1][1])
        else:
            words.append((piece, since))
    if not words:
        return ()
    ends = [*(start for _, start in words[1:]), max(end, words[-1][1])]
    return tuple(
        {"word": word.strip(), "start": round(start, 2), "end": round(stop, 2)}
        for (word, start), stop in zip(words, ends, strict=True)
    )
