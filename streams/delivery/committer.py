"""Decides when offsets are committed and retried; offset tracker and crash guard decide which."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Container, Mapping

from aiokafka import errors

from handlers.logger import get_logger
from streams.delivery.crash_guard import CrashGuard
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Positions, RecordSource, TopicPartition

log = get_logger(__name__)

_NOT_COMMITTED_S = 0.05
_LONGEST_ASIDE_S = 60.0
_NOT_ASIDE = (-math.inf, 0.0)
_TOPIC_GONE = errors.UnknownTopicOrPartitionError.errno
ASIDE = {
    _TOPIC_GONE: "the topic is gone; its answered requests have no place left to be counted in",
    errors.TopicAuthorizationFailedError.errno: "the right to read the topic was taken away; grant READ on it",
    errors.GroupAuthorizationFailedError.errno: "the right to read the group was taken away; grant READ on it",
}
"""The error codes that postpone the commits of one topic, while those of others go on."""
NO_MEMBER = frozenset({errors.UnknownMemberIdError.errno, errors.IllegalGenerationError.errno})


class Committer:
    """Commits the positions of tracker and guard every `interval_s`, and earlier when many records are acked.

    Lives on the event loop. Each topic succeeds or fails by itself: commits that the broker refuses are retried at
    growing intervals, and delay no other topic.
    """

    def __init__(self, source: RecordSource, tracker: OffsetTracker, guard: CrashGuard, *, interval_s: float) -> None:
        self._source = source
        self._tracker = tracker
        self._guard = guard
        self._interval_s = interval_s
        self._one_at_a_time = asyncio.Lock()
        self._aside: dict[str, tuple[float, float]] = {}
        """By topic: when its postponed commits are tried again, and after which pause."""
        self._lost_epoch = -1
        """The group has removed this member: nothing of this epoch and those before can be committed."""

    async def run(self) -> None:
        """Commit until cancelled.

        Raises:
            KafkaError: permanent; the broker refuses an offset, and retrying cannot help.
        """
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._tracker.commit_is_due.wait()
            except TimeoutError:
                await self.commit()
            else:
                await self._source.opened()
                if not await self.commit():
                    await asyncio.sleep(_NOT_COMMITTED_S)

    async def commit_all(self) -> None:
        """Return once everything that is answered is committed, as far as this member can commit it now.

        Raises:
            KafkaError: as `run`.
        """
        while self._due():
            if not await self.commit():
                await asyncio.sleep(_NOT_COMMITTED_S)

    async def commit_last(self) -> None:
        """As `commit_all`, before partitions are revoked: postponed topics are tried once more."""
        self._aside.clear()
        await self.commit_all()

    async def commit(self) -> bool:
        """Commit what is due. Return whether there was something and the broker has all of it.

        Raises:
            KafkaError: as `run`.
        """
        async with self._one_at_a_time:
            due = self._due()
            return bool(due) and self._note(due, await self._source.commit(due))

    def _due(self) -> Positions:
        """Return the positions to commit; one is lower than before where a log was replaced."""
        now = asyncio.get_running_loop().time()
        return {
            place: position
            for place, position in self._guard.positions().items()
            if position.epoch > self._lost_epoch and now >= self._aside.get(place[0], _NOT_ASIDE)[0]
        }

    def _note(self, asked: Positions, answers: Mapping[TopicPartition, int]) -> bool:
        def answered(codes: Container[int]) -> Positions:
            return {place: asked[place] for place, code in answers.items() if code in codes}

        committed = answered((0,))
        for topic, _ in committed:
            self._aside.pop(topic, None)
        self._guard.told({**committed, **answered(ASIDE)})
        self._tracker.committed(committed)
        self._tracker.discount(answered((_TOPIC_GONE,)))
        self._tracker.give_up({place: asked[place] for place in asked.keys() - answers.keys()})
        for topic, code in {place[0]: code for place, code in answers.items() if code in ASIDE}.items():
            self._put_aside(topic, ASIDE[code])
        if NO_MEMBER & set(answers.values()):
            self._lost_epoch = max(position.epoch for position in asked.values())
        return len(committed) == len(asked)

    def _put_aside(self, topic: str, reason: str) -> None:
        _, before_s = self._aside.get(topic, _NOT_ASIDE)
        pause_s = min(max(1.0, 2 * before_s), _LONGEST_ASIDE_S)
        self._aside[topic] = (asyncio.get_running_loop().time() + pause_s, pause_s)
        log.warning("offsets_not_committed", topic=topic, reason=reason, next_try_s=pause_s)
