"""Every option of every task at its extremes: an answer or a refusal in time, and the server goes on."""

from __future__ import annotations

import logging
import os
import random
import time
from typing import Any

import pytest

from tests.integration.hostile.asking import QUESTIONS, Question, Victim
from tests.integration.hostile.extremes import extremes
from tests.integration.worker_process import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

log = logging.getLogger(__name__)

IS_LONG = "CHAOS_ROUNDS" in os.environ
WITHIN_S = 5.0 if IS_LONG else PATIENCE_S
FEW = 6
"""Extremes of each question where not all are tried."""
OUTCOMES = {"ok", "INVALID_OPTION", "INVALID_INPUT"}
LONG_OUTCOMES = {*OUTCOMES, "DEADLINE_EXCEEDED"}
"""Of requests that may take all the time they are given: the server ends them then."""
LENGTHS = {"max_new_tokens", "max_length", "num_beams"}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: f"{question.task}, {question.model}")
def test_each_extreme_has_one_clear_outcome(victim: Victim, question: Question) -> None:
    wrong = []
    for options in tried(question):
        shown = {name: str(value)[:40] for name, value in options.items()}
        started = time.monotonic()
        outcome = victim.ask(question.request(**options), f"{question.task}: {shown}")
        took = time.monotonic() - started
        log.info("%6.1f s %-16s %s: %s", took, outcome, question.task, shown)
        if outcome not in (LONG_OUTCOMES if LENGTHS & options.keys() else OUTCOMES):
            wrong.append(f"{question.task} by {question.model}, {shown}: {outcome}")
        victim.ask_plain(question, within_s=WITHIN_S)
        victim.check_alive()
    assert not wrong, "\n".join(wrong)


def tried(question: Question) -> list[dict[str, Any]]:
    """Return all extremes of the question's task, or some, of those that do not ask for long answers."""
    found = list(extremes(question.task, "transformers"))
    if IS_LONG:
        return found
    short = [options for options in found if not LENGTHS & options.keys()]
    return random.Random(question.model + question.task).sample(short, min(FEW, len(short)))
