"""The table of options: validation, translation, docs/options.md and the JSON Schema use it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from handlers.errors import InvalidOption
from handlers.options.ollama import OLLAMA_OPTIONS
from handlers.options.spec import NO_BOUNDS, Bounds, over_bound, shown
from handlers.options.spec import OptionSpec as OptionSpec

ANSWERING_TASKS = ("text-generation", "vlm", "video-analysis", "document-analysis")
"""Tasks whose models generate an answer in their own words."""

_WRITING_TASKS = (*ANSWERING_TASKS, "asr", "ocr")
"""The same and tasks whose models transcribe: options limit the tokens and control the search."""

_MOST_NAMED = 8
"""For how many unknown options of a request the nearest name is looked up, which takes time."""

_LENGTH = (
    OptionSpec(
        "max_new_tokens",
        "integer",
        "Most tokens to generate; in asr, for each window of the recording; with ollama, -1 and -2: as many as the "
        "bound allows. Ollama itself ends an answer at 10 times num_ctx.",
        1,
        bound="limits.max_tokens",
        engine_names={"ollama": "num_predict"},
        engine_values={"ollama": (-1, -2)},
    ),
    OptionSpec(
        "repetition_penalty",
        "number",
        "Above 1, tokens that occurred before become less likely.",
        0.1,
        10,
        engine_names={"ollama": "repeat_penalty"},
    ),
)
_RANDOMNESS = (
    OptionSpec("temperature", "number", "Randomness of sampling; 0 takes the likeliest token.", 0, 2),
    OptionSpec(
        "seed",
        "integer",
        "Seed of sampling: the same seed gives the same answer; with ollama, -1: another one each time.",
        0,
        2**63 - 1,
        engine_values={"ollama": (-1,)},
    ),
)
_SAMPLING = (
    OptionSpec(
        "max_length",
        "integer",
        "Most tokens of prompt and answer together, unless max_new_tokens is given; with ollama, of the answer.",
        1,
        bound="limits.max_tokens",
    ),
    OptionSpec("do_sample", "boolean", "Sample each token by its probability instead of taking the likeliest."),
    OptionSpec("top_p", "number", "Sample from the likeliest tokens that together have this probability.", 0, 1),
    OptionSpec("stop", "strings", "The answer ends before the first of these strings.", 1, 16, longest=1000),
)
_TOP_K = (
    OptionSpec(
        "top_k", "integer", "Sample from this many likeliest tokens, or return this many labels; 0: all.", 0, 10**6
    ),
)
_BEAMS = (
    OptionSpec(
        "num_beams", "integer", "Beams of beam search; 1 means greedy search.", 1, bound="limits.max_beams", neutral=1
    ),
    OptionSpec("early_stopping", "choice", "When beam search ends.", choices=(True, False, "never"), neutral=False),
    OptionSpec("length_penalty", "number", "Above 0, beam search prefers longer answers.", -10, 10, neutral=1.0),
)
_SPEECH = (
    OptionSpec("language", "string", 'Language spoken, as "en" or "english"; without it, it is detected.', longest=100),
    OptionSpec("translate", "boolean", "Translate the speech into English."),
    OptionSpec(
        "timestamps",
        "choice",
        "Times for each segment, for each word as well, or none.",
        choices=("segment", "word", False),
    ),
    OptionSpec(
        "no_speech_threshold",
        "number",
        "With Whisper, a window counts as silent where the model's probability of no speech is above this and it is "
        "not sure of its text; without it, 0.6; 1 switches that off.",
        0,
        1,
    ),
    OptionSpec(
        "logprob_threshold",
        "number",
        "With Whisper, a text whose tokens have a mean log-probability below this is transcribed again at a higher "
        "temperature; without it, -1; -100 switches that off.",
        -100,
        0,
    ),
    OptionSpec(
        "compression_ratio_threshold",
        "number",
        "With Whisper, a text whose UTF-8 bytes zlib compresses by more than this factor repeats itself, and is "
        "transcribed again at a higher temperature; without it, 2.4; 1000 switches that off.",
        1,
        1000,
    ),
    OptionSpec(
        "temperature_increment_on_fallback",
        "number",
        "With Whisper, by how much the temperature grows, up to 1, each time a text is transcribed again; without it, "
        "0.2; 0: never. At most ten times, however small it is.",
        0,
        1,
    ),
)
_VIDEO = (
    OptionSpec(
        "num_frames", "integer", "Frames to look at, at equal distances; without it, 16.", 1, bound="media.max_frames"
    ),
    OptionSpec("every_s", "number", "Look at one frame for each so many seconds instead.", 0.001, 86_400),
)

OPTIONS: Mapping[str, OptionSpec] = MappingProxyType(
    {
        spec.name: replace(spec, tasks=tasks, engines=engines)
        for specs, tasks, engines in (
            (_LENGTH, _WRITING_TASKS, ()),
            (_RANDOMNESS, (*ANSWERING_TASKS, "asr"), ()),
            (_SAMPLING, ANSWERING_TASKS, ()),
            (_TOP_K, (*ANSWERING_TASKS, "audio-classification"), ()),
            (_BEAMS, _WRITING_TASKS, ("transformers",)),
            (OLLAMA_OPTIONS, ("text-generation", "vlm"), ("ollama",)),
            (_SPEECH, ("asr",), ()),
            (_VIDEO, ("video-analysis",), ()),
        )
        for spec in specs
    }
)
"""Every option of the built-in tasks and engines, by canonical name."""


def options_of(task: str) -> dict[str, OptionSpec]:
    """Return the options of the table that apply to `task`, by canonical name."""
    return {name: spec for name, spec in OPTIONS.items() if not spec.tasks or task in spec.tasks}


def validate_options(
    options: Mapping[str, Any] | None,
    *,
    task_options: Mapping[str, OptionSpec] | None,
    engine: str,
    bounds: Bounds = NO_BOUNDS,
) -> dict[str, Any]:
    """Return `options` checked and under canonical names; an option that is null counts as not given.

    `task_options` are those the task takes. With None, names of the table are checked and others pass. An
    option that `engine` does not have is left out where its value is the neutral one. `bounds` are the largest
    values that the settings allow.

    Raises:
        InvalidOption: permanent; says which names are unknown and the nearest known ones, which value is out
            of range and the range or setting, which type is wrong and the right one, whose option it is.
    """
    if options is None or options == {}:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidOption(f"options must be an object of names and values; got {shown(options)}")
    known = _by_any_name(OPTIONS if task_options is None else task_options)
    if task_options is not None and (unknown := [name for name in options if name not in known]):
        raise _unknown(unknown, known)
    checked: dict[str, Any] = {}
    written_as: dict[str, str] = {}
    for written, value in options.items():
        spec = known.get(written)
        if value is None:
            continue
        if spec is None:
            checked[written] = value
            continue
        if not spec.applies_to(engine):
            if spec.is_neutral(value):
                continue
            theirs = " and ".join(spec.engines)
            raise InvalidOption(f"options.{written} is an option of engine {theirs}, not of {engine}; leave it out")
        value = spec.check(value, written=written, engine=engine, bounds=bounds)
        if checked.get(spec.name, value) != value:
            raise InvalidOption(
                f"options.{written_as[spec.name]} and options.{written} are one option but are "
                f"{shown(checked[spec.name])} and {shown(value)}; give one of them"
            )
        checked[spec.name], written_as[spec.name] = value, written
    _check_beam_tokens(checked, bounds)
    return checked


def _check_beam_tokens(options: Mapping[str, Any], bounds: Bounds) -> None:
    """Refuse a beam search that would hold its model for minutes: it runs alone, each beam to its end."""
    beams, most = options.get("num_beams", 1), bounds.get("limits.max_beam_tokens")
    length = "max_new_tokens" if "max_new_tokens" in options else "max_length"
    if most is None or length not in options or not isinstance(beams, int) or beams < 2:
        return
    if (asked := beams * options[length]) > most:
        raise over_bound(f"num_beams times options.{length}", asked, most, "limits.max_beam_tokens")


def translate_options(options: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return validated `options` under the names that `engine` uses."""
    return {
        OPTIONS[name].engine_names.get(engine, name) if name in OPTIONS else name: value
        for name, value in options.items()
    }


def _by_any_name(options: Mapping[str, OptionSpec]) -> dict[str, OptionSpec]:
    return {name: spec for spec in options.values() for name in spec.names}


def _unknown(unknown: list[Any], known: Mapping[str, OptionSpec]) -> InvalidOption:
    """Return the error for names that the task does not take, with a hint for each."""
    everywhere = _by_any_name(OPTIONS)
    hints = []
    for name in map(str, unknown[:_MOST_NAMED]):
        if name in everywhere:
            hints.append(f"options.{name} is an option of {', '.join(everywhere[name].tasks)} only; leave it out")
        elif near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
            hints.append(f"options.{name} is unknown; the nearest known option is {near[0]}")
        else:
            hints.append(f"options.{name} is unknown; this task takes {', '.join(sorted(known)) or 'none'}")
    if len(unknown) > _MOST_NAMED:
        hints.append(f"{len(unknown) - _MOST_NAMED} more are unknown")
    return InvalidOption("; ".join(hints))


COLUMNS = ("option", "values", "tasks", "engines", "what it does")

_PAGE = """\
# Options

What a request may carry in `options`, by task and engine. A name that is not known is refused with the nearest
known one, a value out of range with the range, and an option that the task or engine has no use for as well.
An option that is null counts as not given. A name in brackets is what that engine calls the option; requests
may use either.

{table}
"""


def options_page() -> str:
    """Return docs/options.md: the rules for all options, and the table of every option, one row each."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(_markdown, OPTIONS.values())]
    return _PAGE.format(table="\n".join("| " + " | ".join(line) + " |" for line in lines))


def cells(spec: OptionSpec) -> tuple[str, str, str, str]:
    """Return the columns of `spec` beside its name, in plain text."""
    tasks, engines = ", ".join(spec.tasks) or "all", ", ".join(spec.engines) or "all"
    return spec.allowed, tasks, engines, spec.description


def _markdown(spec: OptionSpec) -> tuple[str, ...]:
    names = [f"`{spec.name}`", *(f"({engine}: `{name}`)" for engine, name in spec.engine_names.items())]
    return (" ".join(names), *(cell.replace("|", r"\|") for cell in cells(spec)))
