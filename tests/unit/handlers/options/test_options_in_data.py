"""Options that stand in the data: the same check, the same meaning, and no silent contradiction."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.base import BaseModelHandler, with_options_in_data
from handlers.errors import InvalidInput, InvalidOption
from handlers.options.options import validate_options
from handlers.recording import AudioClassificationHandler
from handlers.video_analysis import VideoAnalysisHandler

VIDEO, AUDIO = VideoAnalysisHandler(), AudioClassificationHandler()


def joined(handler: BaseModelHandler, data: dict[str, Any], **options: Any) -> dict[str, Any]:
    checked = validate_options(options, task_options=handler.options, engine="transformers")
    return with_options_in_data(handler, checked, data, "transformers")


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (AUDIO, {"top_k": 2}),
        (VIDEO, {"num_frames": 4, "top_k": 2}),
        (VIDEO, {"every_s": 1}),
        (VIDEO, {"num_frames": 4.0}),
        (VIDEO, {"top_k": None}),
    ],
)
def test_an_option_in_the_data_is_what_it_is_among_the_options(
    handler: BaseModelHandler, options: dict[str, Any]
) -> None:
    assert joined(handler, {"video": b"", **options}) == joined(handler, {}, **options)


@pytest.mark.parametrize(
    ("handler", "data", "told"),
    [
        (AUDIO, {"top_k": -1}, r"data\.top_k is -1; it must be an integer from 0 to 1000000"),
        (AUDIO, {"top_k": "2"}, r'data\.top_k is "2"; it must be an integer'),
        (AUDIO, {"top_k": True}, r"data\.top_k is true"),
        (
            VIDEO,
            {"num_frames": 0},
            r"data\.num_frames is 0; it must be an integer from 1 to media\.max_frames",
        ),
        (VIDEO, {"every_s": [1]}, r"data\.every_s is \[1\]; it must be a number from 0\.001 to 86400"),
    ],
)
def test_a_value_that_the_option_does_not_take_is_refused(
    handler: BaseModelHandler, data: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        joined(handler, data)


def test_given_in_both_places_it_must_be_the_same() -> None:
    assert joined(VIDEO, {"num_frames": 4}, num_frames=4.0, top_k=1) == {"num_frames": 4, "top_k": 1}
    with pytest.raises(InvalidOption, match=r"data\.top_k is 3 and options\.top_k is 5; give one of them"):
        joined(AUDIO, {"top_k": 3}, top_k=5)


def test_every_option_that_may_stand_in_the_data_is_an_option_of_its_task() -> None:
    for handler in (AUDIO, VIDEO):
        assert set(handler.options_in_data) <= set(handler.options)
