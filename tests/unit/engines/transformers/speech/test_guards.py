"""Speech that is none: what is made of how sure a model is, and how that is measured."""

from __future__ import annotations

import math

import pytest
import torch

from engines.transformers.generation.sampling import Sampling
from engines.transformers.speech.guards import Evidence, Guards, compression_ratio, is_loop
from engines.transformers.speech.whisper_pass import PassListener

GUARDS = Guards()
END = 4
"""The tokens of the tests: text 0 to 3, then the end."""


def evidence(
    avg: float = -0.3,
    *,
    text: float | None = None,
    no_speech: float = 0.02,
    ratio: float = 1.0,
    is_whole: bool = True,
) -> Evidence:
    return Evidence(avg, avg if text is None else text, no_speech, ratio, is_whole)


def test_what_the_model_is_sure_of_was_said_even_where_it_is_quiet() -> None:
    for sure in (evidence(), evidence(-0.4, no_speech=0.9)):
        assert not GUARDS.is_silence(sure)
        assert not GUARDS.is_silence_after_all(sure)
        assert not GUARDS.is_doubtful(sure)


@pytest.mark.parametrize(
    "invented",
    [
        evidence(-1.6, no_speech=0.9),  # unsure of all of it
        evidence(-0.7, text=-1.4, no_speech=0.93),  # "you": the times are sure, the word is not
        evidence(-0.07, no_speech=0.97, ratio=27.5),  # a loop
    ],
)
def test_an_unlikely_text_in_a_window_that_sounds_silent_is_none(invented: Evidence) -> None:
    assert GUARDS.is_silence(invented)


def test_a_doubtful_text_is_heard_again_and_dropped_only_where_silence_is_not_unlikely() -> None:
    hard_to_hear, tone = evidence(-1.1, no_speech=0.2), evidence(-2.0, no_speech=0.42)
    for doubtful in (hard_to_hear, tone):
        assert GUARDS.is_doubtful(doubtful)
        assert not GUARDS.is_silence(doubtful)
    assert not GUARDS.is_silence_after_all(hard_to_hear)
    assert GUARDS.is_silence_after_all(tone)


def test_what_was_surely_said_may_repeat_itself_but_no_loop_and_nothing_unsure() -> None:
    assert not GUARDS.is_doubtful(evidence(-0.2, ratio=4.0))
    assert GUARDS.is_doubtful(evidence(-0.2, ratio=4.0, is_whole=False))
    assert GUARDS.is_doubtful(evidence(-0.8, ratio=4.0))
    assert GUARDS.is_doubtful(evidence(-0.2, ratio=4.0, no_speech=0.4))


def test_the_attempt_to_rely_on_is_the_surest_that_does_not_repeat_itself() -> None:
    loop, unsure, surer = evidence(-0.1, ratio=9.0, is_whole=False), evidence(-1.5), evidence(-1.2)
    assert max(loop, unsure, surer, key=GUARDS.rank) is surer


@pytest.mark.parametrize(
    ("options", "first", "expected"),
    [
        ({}, 0.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ({}, 0.5, (0.5, 0.7, 0.9)),
        ({}, 1.5, (1.5,)),
        ({"temperature_increment_on_fallback": 0}, 0.0, (0.0,)),
        ({"temperature_increment_on_fallback": 0.5}, 0.0, (0.0, 0.5, 1.0)),
    ],
)
def test_the_temperature_grows_to_one(options: dict[str, float], first: float, expected: tuple[float, ...]) -> None:
    assert Guards.of({**options, "temperature": first}).temperatures == pytest.approx(expected)


@pytest.mark.parametrize("increment", [0.01, 1e-9, 5e-324])
def test_however_small_the_increment_a_text_is_heard_again_ten_times_at_most(increment: float) -> None:
    temperatures = Guards.of({"temperature_increment_on_fallback": increment}).temperatures
    assert len(temperatures) == 11


def test_guards_at_their_extremes_take_every_text() -> None:
    off = Guards.of({"no_speech_threshold": 1, "logprob_threshold": -100, "compression_ratio_threshold": 1000})
    worst = evidence(-20.0, no_speech=1.0, ratio=80.0)
    assert not off.is_doubtful(worst)
    assert not off.is_silence(worst)
    assert not Guards(no_speech_threshold=1).is_silence_after_all(worst)


def test_the_compression_ratio_is_that_of_the_text_and_defined_without_one() -> None:
    assert compression_ratio("") == 0.0
    assert 0.5 < compression_ratio("He might even have been made amiable himself.") < 1.2
    assert compression_ratio("you " * 100) > 10


def test_a_loop_is_a_long_repetition_and_nothing_shorter() -> None:
    assert is_loop([1, 2, 3] * 40)
    assert is_loop([*range(50), *[7] * 96])
    assert not is_loop([7] * 50)
    assert not is_loop(list(range(200)))


def listened(samplings: list[Sampling], steps: list[list[int]]) -> tuple[list[list[int]], PassListener]:
    """Return the tokens that the listener's scores lead to, row by row, over scores drawn from `steps` seeds."""
    listener = PassListener(samplings, end=END, device=torch.device("cpu"))
    ids = torch.full((len(samplings), 1), END + 1)
    for seeds in steps:
        scores = torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        ids = torch.cat([ids, listener(ids, scores).argmax(-1)[:, None]], dim=1)
    listener.take(ids[:, -1])
    return ids[:, 1:].tolist(), listener


def test_a_row_draws_the_same_whoever_is_beside_it_and_the_others_stay_the_likeliest() -> None:
    warm, steps = Sampling(do_sample=True, temperature=0.8, seed=5), range(40)
    [alone], _ = listened([warm], [[step] for step in steps])
    [greedy], _ = listened([Sampling()], [[step + 100] for step in steps])
    together, _ = listened([Sampling(), warm], [[step + 100, step] for step in steps])
    assert together == [greedy, alone]
    [other], _ = listened([Sampling(do_sample=True, temperature=0.8, seed=6)], [[step] for step in steps])
    assert other != alone


def test_draws_are_as_likely_as_the_temperature_makes_them() -> None:
    listener = PassListener([Sampling(do_sample=True, temperature=0.5, seed=1)], end=END, device=torch.device("cpu"))
    scores = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    counts = torch.zeros(3)
    for _ in range(4000):
        counts[listener(torch.zeros(1, 1, dtype=torch.long), scores.clone()).argmax()] += 1
    expected = torch.tensor([0.25, 0.09, 0.04]) / 0.38
    assert counts / 4000 == pytest.approx(expected, abs=0.03)


def test_means_are_over_the_tokens_up_to_the_end_and_over_those_of_the_text() -> None:
    listener = PassListener([Sampling(), Sampling()], end=END, device=torch.device("cpu"))
    scores = torch.log(torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.2, 0.4]]))
    for tokens in (
        [9, 9],
        [0, 5],
        [0, 4],
        [0, 4],
    ):  # what the model was given, then text, a time, the end, padding
        listener(torch.tensor([[token] for token in tokens]), scores)
    first, second = listener.means()
    assert first == pytest.approx((math.log(0.5), math.log(0.5)))
    mean = (math.log(0.4) + math.log(0.2)) / 2
    assert second == pytest.approx((mean, mean))


def test_a_row_that_loops_is_ended_and_its_neighbours_are_not() -> None:
    listener = PassListener([Sampling(), Sampling()], end=1000, device=torch.device("cpu"))
    ids = torch.tensor([[5] * 112, list(range(112))])
    over = [listener.stop_loops(ids, None).tolist() for _ in range(16)]
    assert over[:15] == [[False, False]] * 15
    assert over[15] == [True, False]
    assert listener.is_over.tolist() == listener.is_loop.tolist() == [True, False]
