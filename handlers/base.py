"""The contract of a handler: validate and decode a request's data, format its result."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from handlers.errors import InvalidInput, InvalidOption
from handlers.options.options import OptionSpec
from handlers.options.spec import NO_BOUNDS, Bounds, shown
from handlers.settings import MediaSettings

NOTES = ("truncated", "track")
"""Inputs about the media that are copied to the result's metadata: what was not read, and which of several tracks
was."""


class BaseModelHandler(ABC):
    """Turns a request's `data` into model inputs and a model's output into the task's result.

    One instance serves every request of its task from several threads at once, so it keeps no state between
    calls. Both methods are pure: no network, no model, no clock. Only `preprocess` and `postprocess` must be
    written; the class attributes have working defaults.
    """

    task: ClassVar[str] = ""
    """The name requests carry in `task`; set by registration where it is empty."""

    media_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of `data` that hold media. The pipeline replaces each address in them (or in a list in them) by a
    `handlers.media.Media` before `preprocess`; Python callers may also leave bytes, arrays or images there."""

    waits_for_children: ClassVar[bool] = False
    """Whether `preprocess` mostly waits for child processes that decode. Such handlers get separate threads, so that
    they do not block handlers that decode in their thread."""

    options: ClassVar[Mapping[str, OptionSpec] | None] = None
    """The options this task takes, by name. None: known names are range-checked, others pass unchecked."""

    data_fields: ClassVar[tuple[str, ...] | None] = None
    """Every field of `data` that the task reads, besides `options_in_data`. A request with another one is refused,
    as a misspelt field would be ignored in silence. None: any field passes."""

    options_in_data: ClassVar[tuple[str, ...]] = ()
    """Options that requests may also write in `data`; `preprocess` gets them among its options."""

    @abstractmethod
    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return the model's inputs for `data`; `options` are validated and carry canonical names.

        What `NOTES` names among the inputs comes into the result's metadata.

        Raises:
            InvalidInput: permanent; a field is missing or of the wrong type.
            MediaCorrupt: permanent; media bytes that do not decode.
            MediaTooLarge: permanent; more samples, pixels or pages than the limits allow.
        """

    @abstractmethod
    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return the task's output for the engine's raw `result`: JSON-able, with a `metadata` object.

        Numbers and arrays of numpy and torch are written as JSON numbers; NaN and infinities are refused.
        """

    def validate_input(self, data: Mapping[str, Any], fields: Sequence[str]) -> None:
        """Check that every one of `fields` is present in `data` and not None.

        Raises:
            InvalidInput: permanent; names the missing fields and the ones that came.
        """
        if missing := ", ".join(f"data.{name}" for name in fields if data.get(name) is None):
            came = ", ".join(f"{name}: null" if data[name] is None else name for name in sorted(data)) or "nothing"
            raise InvalidInput(f"{missing} is required for task {self.task or type(self).__name__}; got {came}")

    def refuse_unknown_fields(self, data: Mapping[str, Any]) -> None:
        """Check that the task reads every field of `data`.

        Raises:
            InvalidInput: permanent; names the first field that it does not read, and what it may be meant for.
        """
        if self.data_fields is None:
            return
        known = (*self.data_fields, *self.options_in_data)
        strange = next((str(name) for name in data if name not in known), None)
        if strange is None:
            return
        if strange in {name for spec in (self.options or {}).values() for name in spec.names}:
            hint = f"it is an option: put it into options as {strange}"
        elif near := difflib.get_close_matches(strange, known, n=1):
            hint = f"did you mean data.{near[0]}?"
        else:
            hint = "leave it out; metadata is for what only the caller needs"
        raise InvalidInput(f"data.{strange:.80} is unknown to task {self.task}, which reads {', '.join(known)}; {hint}")


class MediaHandler(BaseModelHandler):
    """A handler that decodes media within `limits`."""

    def __init__(self, limits: MediaSettings | None = None) -> None:
        self.limits = limits or MediaSettings()


def optional_text(data: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return field `name` of `data` as a part of the inputs, which is empty where it was not given.

    Raises:
        InvalidInput: permanent; it is not a text, or blank.
    """
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"data.{name} is {shown(value)}; it must be a text, or left out")
    return {name: value}


def notes(**told: Any) -> dict[str, Any]:
    """Return those of `NOTES` that have a value, as a part of the inputs."""
    return {name: value for name, value in told.items() if value}


def with_metadata(output: dict[str, Any], result: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """Return `output` with its metadata: the fields of an engine's raw `result` that are neither in `output` nor
    `used`."""
    known = {*output, *used, "metadata"}
    metadata = {name: value for name, value in result.items() if name not in known}
    return {**output, "metadata": {**metadata, **result.get("metadata", {})}}


def with_options_in_data(
    handler: BaseModelHandler,
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    engine: str,
    bounds: Bounds = NO_BOUNDS,
) -> dict[str, Any]:
    """Return the validated `options` with those in `data`, validated the same way; null counts as not given.

    Raises:
        InvalidInput: permanent; a value that the option does not allow.
        InvalidOption: permanent; it is given in both places with different values.
    """
    joined = dict(options)
    for name in handler.options_in_data:
        if (value := data.get(name)) is None:
            continue
        spec = (handler.options or {})[name]
        try:
            value = spec.check(value, written=name, engine=engine, bounds=bounds)
        except InvalidOption as error:
            raise InvalidInput(error.message.replace("options.", "data.", 1)) from None
        if joined.setdefault(name, value) != value:
            raise InvalidOption(
                f"data.{name} is {shown(value)} and options.{name} is {shown(joined[name])}; give one of them"
            )
    return joined
