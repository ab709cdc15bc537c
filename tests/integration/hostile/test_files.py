"""Files that mean harm, over every decoder and task: one clear outcome each, and the server goes on."""

from __future__ import annotations

import logging
import os
import time

import pytest

from handlers.decoding.audio import read_sound
from handlers.errors import MediaError, MediaTooLarge
from tests.integration.hostile.asking import QUESTIONS, Victim
from tests.integration.hostile.hostile_files import HostileFile, hostile_files
from tests.integration.worker_process import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

log = logging.getLogger(__name__)

IS_LONG = "CHAOS_ROUNDS" in os.environ
FILES = 200 if IS_LONG else 25
WITHIN_S = 5.0 if IS_LONG else PATIENCE_S
OUTCOMES = {"ok", "INVALID_INPUT", "MEDIA_CORRUPT", "MEDIA_TOO_LARGE"}
LONG_S = 120.0
"""Longer speech may take a model all the time that a request is given: the server ends it then."""


def outcomes_of(file: HostileFile) -> set[str]:
    """Return how a request about the file may end. To decode it never takes long, so that bounds no short sound."""
    if file.medium == "sound":
        try:
            read_sound(file.content, field=file.name, max_s=LONG_S)
        except MediaTooLarge:
            return {*OUTCOMES, "DEADLINE_EXCEEDED"}
        except MediaError:
            return OUTCOMES - {"ok"}
    return OUTCOMES


@pytest.mark.timeout(3600)
def test_each_hostile_file_has_one_clear_outcome(victim: Victim) -> None:
    wrong = []
    for number, file in enumerate(hostile_files(FILES, seed=19, with_slow=IS_LONG)):
        outcomes = outcomes_of(file)
        takers = [question for question in QUESTIONS if question.medium == file.medium]
        if not IS_LONG:
            takers = [takers[number % len(takers)]]
        for question in takers:
            started = time.monotonic()
            outcome = victim.ask(question.request(file.content), f"{file} to {question.task}")
            took = time.monotonic() - started
            log.info("%6.1f s %-16s %s to %s", took, outcome, file, question.task)
            if outcome not in outcomes:
                wrong.append(f"{file} to {question.task} by {question.model}: {outcome}")
            victim.ask_plain(question, within_s=WITHIN_S)
            victim.check_alive()
    assert not wrong, "\n".join(wrong)
