"""Files that mean harm, over every decoder and task: one clear outcome each, and the server goes on."""

from __future__ import annotations

import logging
import os
import time

import pytest

from tests.integration.hostile.asking import QUESTIONS, Victim
from tests.integration.hostile.hostile_files import hostile_files
from tests.integration.worker_process import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

log = logging.getLogger(__name__)

IS_LONG = "CHAOS_ROUNDS" in os.environ
FILES = 200 if IS_LONG else 25
WITHIN_S = 5.0 if IS_LONG else PATIENCE_S
OUTCOMES = {"ok", "INVALID_INPUT", "MEDIA_CORRUPT", "MEDIA_TOO_LARGE"}
OUTCOMES_OF_SOUND = {*OUTCOMES, "DEADLINE_EXCEEDED"}
"""Hours of speech may take all the time that a request is given: the server ends them then."""


@pytest.mark.timeout(3600)
def test_each_hostile_file_has_one_clear_outcome(victim: Victim) -> None:
    wrong = []
    for number, file in enumerate(hostile_files(FILES, seed=19, with_slow=IS_LONG)):
        takers = [question for question in QUESTIONS if question.medium == file.medium]
        if not IS_LONG:
            takers = [takers[number % len(takers)]]
        for question in takers:
            started = time.monotonic()
            outcome = victim.ask(question.request(file.content), f"{file} to {question.task}")
            took = time.monotonic() - started
            log.info("%6.1f s %-16s %s to %s", took, outcome, file, question.task)
            if outcome not in (OUTCOMES_OF_SOUND if file.medium == "sound" else OUTCOMES):
                wrong.append(f"{file} to {question.task} by {question.model}: {outcome}")
            victim.ask_plain(question, within_s=WITHIN_S)
            victim.check_alive()
    assert not wrong, "\n".join(wrong)
