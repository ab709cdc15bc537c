"""The one table of options: validation, translation, the README's table and the JSON Schema come from it."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from handlers.errors import InvalidOption

Kind = Literal["integer", "number", "boolean", "string", "strings", "choice", "duration", "format"]

BUILT_IN_ENGINES = frozenset({"transformers", "ollama"})
"""Engines whose options we know; any other engine is offered every known option and judges for itself."""

GENERATION = ("text-generation", "vlm", "asr", "ocr", "video-analysis", "document-analysis")
LABELLING = ("audio-classification", "video-analysis")
PROMPTED = ("text-generation", "vlm", "video-analysis", "document-analysis")


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option: what it is called, which values it takes, where it applies.

    `minimum` and `maximum` are inclusive; for kind "strings" they bound the number of strings. `choices` are
    the allowed values of kind "choice". `engines` and `tasks` name where the option applies; empty: everywhere.
    `engine_names` gives the name an engine of its own calls it by; requests may use either name.
    """

    name: str
    kind: Kind
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    engines: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    engine_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        """What values are taken, as a phrase: "a number from 0 to 2"."""
        bounds = ""
        if self.minimum is not None or self.maximum is not None:
            low, high = _plain(self.minimum), _plain(self.maximum)
            bounds = f" from {low} to {high}" if low and high else f" of at least {low}" if low else f" up to {high}"
        match self.kind:
            case "integer":
                return f"an integer{bounds}"
            case "number":
                return f"a number{bounds}"
            case "boolean":
                return "true or false"
            case "string":
                return "a non-empty string"
            case "strings":
                return f"a non-empty string, or a list of {_plain(self.maximum) or 'some'} of them at most"
            case "choice":
                return "one of " + ", ".join(_json_like(choice) for choice in self.choices)
            case "duration":
                return 'a number of seconds, or a duration such as "5m" or "1h30m"'
            case "format":
                return '"json", or a JSON Schema object'


_TABLE = (
    OptionSpec(
        "max_new_tokens", "integer", "Most tokens to generate.", 1, 1_000_000, tasks=GENERATION,
        engine_names={"ollama": "num_predict"},
    ),
    OptionSpec(
        "max_length", "integer", "Most tokens of prompt and answer together; max_new_tokens goes before it.",
        1, 1_000_000, tasks=GENERATION,
    ),
    OptionSpec(
        "temperature", "number", "Randomness of sampling; 0 is greedy.", 0.0, 2.0, tasks=GENERATION,
    ),
    OptionSpec(
        "top_p", "number", "Sample from the likeliest tokens that together have this probability.", 0.0, 1.0,
        tasks=GENERATION,
    ),
    OptionSpec(
        "top_k", "integer", "Sample from this many likeliest tokens; where a task gives labels: how many; 0 is all.",
        0, 1_000_000, tasks=tuple(dict.fromkeys(GENERATION + LABELLING)),
    ),
    OptionSpec("do_sample", "boolean", "Sample instead of taking the likeliest token.", tasks=GENERATION),
    OptionSpec(
        "num_beams", "integer", "Beams of beam search; 1 is none.", 1, 16, engines=("transformers",), tasks=GENERATION,
    ),
    OptionSpec(
        "early_stopping", "choice", "When beam search ends.", choices=(True, False, "never"),
        engines=("transformers",), tasks=GENERATION,
    ),
    OptionSpec(
        "repetition_penalty", "number", "Above 1: tokens that came already are less likely.", 0.1, 10.0,
        tasks=GENERATION, engine_names={"ollama": "repeat_penalty"},
    ),
    OptionSpec(
        "length_penalty", "number", "Above 0: beam search prefers longer answers.", -10.0, 10.0,
        engines=("transformers",), tasks=GENERATION,
    ),
    OptionSpec(
        "stop", "strings", "The answer ends before the first of these strings.", 1, 16, tasks=PROMPTED,
    ),
    OptionSpec("seed", "integer", "Seed of sampling: same seed, same answer.", 0, 2**63 - 1, tasks=GENERATION),
    OptionSpec(
        "mirostat", "choice", "Mirostat sampling: off, version 1, version 2.", choices=(0, 1, 2),
        engines=("ollama",), tasks=PROMPTED,
    ),
    OptionSpec(
        "mirostat_tau", "number", "Mirostat's target entropy.", 0.0, 100.0, engines=("ollama",), tasks=PROMPTED,
    ),
    OptionSpec(
        "mirostat_eta", "number", "Mirostat's learning rate.", 0.0, 1.0, engines=("ollama",), tasks=PROMPTED,
    ),
    OptionSpec(
        "num_ctx", "integer", "Context window in tokens; a change reloads the model.", 1, 16_777_216,
        engines=("ollama",), tasks=PROMPTED,
    ),
    OptionSpec(
        "keep_alive", "duration", "How long the model stays loaded after the answer; negative: for ever.",
        engines=("ollama",), tasks=PROMPTED,
    ),
    OptionSpec("format", "format", "Form of the answer.", engines=("ollama",), tasks=PROMPTED),
    OptionSpec(
        "think", "choice", "Whether, and how hard, a thinking model thinks first.",
        choices=(True, False, "low", "medium", "high", "max"), engines=("ollama",), tasks=PROMPTED,
    ),
    OptionSpec(
        "language", "string", "Language spoken in the recording, as a code (en) or a name (english); "
        "without it the model detects it.", tasks=("asr",),
    ),
    OptionSpec("translate", "boolean", "Translate the speech into English.", tasks=("asr",)),
    OptionSpec(
        "timestamps", "choice", "Times for each segment, for each word too, or none.",
        choices=("segment", "word", False), tasks=("asr",),
    ),
)

OPTIONS: Mapping[str, OptionSpec] = MappingProxyType({spec.name: spec for spec in _TABLE})
"""Every option of every built-in task and engine, by canonical name."""

_GO_DURATION = re.compile(r"-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+|-?0")


def options_of(task: str) -> dict[str, OptionSpec]:
    """Return the options of the table that apply to `task`, by canonical name."""
    return {spec.name: spec for spec in _TABLE if not spec.tasks or task in spec.tasks}


def validate_options(
    options: Mapping[str, Any] | None, *, task_options: Mapping[str, OptionSpec] | None, engine: str
) -> dict[str, Any]:
    """Return `options` checked, with canonical names; an option that is null counts as not given.

    `task_options` are the options the task takes. With None every known name is checked against the table and
    unknown names pass as they are.

    Raises:
        InvalidOption: permanent; unknown names with the nearest known ones, values out of range with the range,
            wrong types with the right one, options of another engine or task with its name.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidOption(f"options must be an object of names and values; got {type(options).__name__}")
    known = OPTIONS if task_options is None else task_options
    canonical = {name: spec for spec in known.values() for name in (spec.name, *spec.engine_names.values())}
    if task_options is not None:
        _refuse_unknown([name for name in options if name not in canonical], canonical)
    checked: dict[str, Any] = {}
    written_as: dict[str, str] = {}
    for written, value in options.items():
        if value is None:
            continue
        spec = canonical.get(written)
        if spec is None:
            checked[written] = value
            continue
        if spec.engines and engine in BUILT_IN_ENGINES and engine not in spec.engines:
            theirs = " and ".join(spec.engines)
            raise InvalidOption(
                f"options.{written} is an option of engine {theirs}, not of {engine}; leave it out, or ask {theirs}"
            )
        value = _CHECKS[spec.kind](spec, written, value)
        if spec.name in checked and checked[spec.name] != value:
            raise InvalidOption(
                f"options.{written_as[spec.name]} and options.{written} are the same option but carry "
                f"{_shown(checked[spec.name])} and {_shown(value)}; give one of them"
            )
        checked[spec.name], written_as[spec.name] = value, written
    return checked


def translate_options(options: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return validated `options` under the names `engine` knows them by."""
    return {
        OPTIONS[name].engine_names.get(engine, name) if name in OPTIONS else name: value
        for name, value in options.items()
    }


def _refuse_unknown(unknown: list[Any], canonical: Mapping[str, OptionSpec]) -> None:
    """Raise for option names the task does not take, each with the way out."""
    if not unknown:
        return
    hints = []
    for name in unknown:
        elsewhere = _everywhere().get(name) if isinstance(name, str) else None
        if elsewhere is not None:
            hints.append(f"options.{name} is an option of {', '.join(elsewhere.tasks)}, not of this task")
            continue
        near = difflib.get_close_matches(str(name), canonical, n=1, cutoff=0.0)
        close = difflib.get_close_matches(str(name), canonical, n=1, cutoff=0.6)
        if close:
            hints.append(f"options.{name} is unknown; did you mean {close[0]}?")
        else:
            nearest = f" (nearest: {near[0]})" if near else ""
            hints.append(f"options.{name} is unknown{nearest}; this task takes {', '.join(sorted(canonical))}")
    raise InvalidOption("; ".join(hints))


def _everywhere() -> dict[str, OptionSpec]:
    return {name: spec for spec in _TABLE for name in (spec.name, *spec.engine_names.values())}


def _refusal(spec: OptionSpec, written: str, value: Any) -> InvalidOption:
    return InvalidOption(f"options.{written} is {_shown(value)}; it must be {spec.allowed}")


def _check_number(spec: OptionSpec, written: str, value: Any) -> Any:
    right = isinstance(value, int) if spec.kind == "integer" else isinstance(value, int | float)
    if isinstance(value, bool) or not right or (isinstance(value, float) and not math.isfinite(value)):
        raise _refusal(spec, written, value)
    if (spec.minimum is not None and value < spec.minimum) or (spec.maximum is not None and value > spec.maximum):
        raise _refusal(spec, written, value)
    return value if spec.kind == "integer" else float(value)


def _check_boolean(spec: OptionSpec, written: str, value: Any) -> Any:
    if not isinstance(value, bool):
        raise _refusal(spec, written, value)
    return value


def _check_string(spec: OptionSpec, written: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise _refusal(spec, written, value)
    return value


def _check_strings(spec: OptionSpec, written: str, value: Any) -> Any:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or not all(isinstance(one, str) and one for one in strings):
        raise _refusal(spec, written, value)
    if len(strings) < (spec.minimum or 0) or len(strings) > (spec.maximum or math.inf):
        raise _refusal(spec, written, value)
    return list(strings)


def _check_choice(spec: OptionSpec, written: str, value: Any) -> Any:
    # Types must agree as well: True == 1 in Python, yet mirostat true is no version and think 1 no level.
    if not any(type(value) is type(choice) and value == choice for choice in spec.choices):
        raise _refusal(spec, written, value)
    return value


def _check_duration(spec: OptionSpec, written: str, value: Any) -> Any:
    if isinstance(value, str):
        right = _GO_DURATION.fullmatch(value) is not None
    else:
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right:
        raise _refusal(spec, written, value)
    return value


def _check_format(spec: OptionSpec, written: str, value: Any) -> Any:
    if value != "json" and not (isinstance(value, Mapping) and value):
        raise _refusal(spec, written, value)
    return value


_CHECKS: Mapping[Kind, Callable[[OptionSpec, str, Any], Any]] = {
    "integer": _check_number,
    "number": _check_number,
    "boolean": _check_boolean,
    "string": _check_string,
    "strings": _check_strings,
    "choice": _check_choice,
    "duration": _check_duration,
    "format": _check_format,
}


def _plain(bound: float | None) -> str:
    return "" if bound is None else f"{bound:g}" if isinstance(bound, float) else str(bound)


def _json_like(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, bool | str) else _json_like(value)
    return f"{type(value).__name__} {text[:80]}" + ("…" if len(text) > 80 else "")
