"""Finds the request that ends each worker that gets it, by what workers note beside the offsets of their group.

A worker that ends without a word (a crash in native code, a kill by the system for its memory, a hang that no interrupt
ends) tells nothing about why. So before the first request of a partition begins, the group keeps beside its offset that
this worker has begun there. The note goes as soon as the position moves, and is withdrawn by a worker that stops.
A worker that finds the note of another knows that it ended at this very position; docs/decisions/crashing-requests.md
says the rest.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Position, Positions, Record, TopicPartition

_SUSPECT = 2
"""How many workers end in a row before a partition is read in groups: one may be killed for any reason."""

_GROUP = 16
"""How many requests of a partition run together then, and nothing else."""


class CrashNote(NamedTuple):
    """What the group keeps beside an offset; empty where nothing is to be known."""

    crashes: int = 0
    """How many workers ended at this offset, at most 2 of those to which the request there came among others.

    Where `by` is set, that worker is counted by then.
    """
    by: str = ""
    """Which process has begun there, and has not been heard of since."""
    end: int = 0
    """Where the group of requests ends that it ran; 0 where it ran any."""

    @classmethod
    def of(cls, text: str) -> CrashNote:
        """Return what `text` says; an empty note where it is of something else."""
        found = re.fullmatch(r"crashes=(\d+) by=(\w*) end=(\d+)", text)
        return cls(int(found[1]), found[2], int(found[3])) if found else cls()

    def __str__(self) -> str:
        return f"crashes={self.crashes} by={self.by} end={self.end}" if any(self) else ""


@dataclass(slots=True, eq=False)
class _Caution:
    """How carefully one partition is read in one epoch."""

    place: TopicPartition
    epoch: int
    start: int
    """The position at which the first request began, or is to begin."""
    crashes: int
    """How many workers ended there, as `CrashNote` counts them."""
    alone_to: int
    """Before this offset requests run one by one."""
    left: int
    """How many requests are still to be run in groups."""
    told: tuple[int, str]
    """The offset that the group has, and the note beside it."""
    end: int = 0
    """Where the group of requests ends that runs, or waits to run; 0 where there are no groups."""
    has_begun: bool = False
    """Whether a request began in this epoch."""
    waits: bool = False
    """Whether requests wait for the note to be kept."""
    is_single: bool = False
    """Whether the group is one request."""
    runs_alone: bool = False
    """Whether a group runs."""
    is_over: bool = False
    """Whether requests begin without a note from now on."""


class CrashGuard:
    """Says which requests may begin, and what is to be noted before. Lives on one event loop.

    A partition at which two workers ended is read in groups of 16 requests for the length of a window, and one by one
    where a worker ended at such a group. While a group runs nothing else does, so that no other request can be what
    ends the worker. A request that ran alone when `max_crashes` workers ended, one after the other, is handed over
    with `Record.crashes` set: it is not to be run again. A worker that moves the position, that stops, or
    that has to give the partition away has not ended there.
    """

    def __init__(self, tracker: OffsetTracker, *, max_crashes: int, window: int) -> None:
        self._tracker = tracker
        self._max_crashes = max_crashes
        self._window = window
        self._me = secrets.token_hex(4)
        self._cautions: dict[TopicPartition, _Caution] = {}
        self._alone: _Caution | None = None
        """The partition of which a group runs, or is the next to run."""
        self._is_withdrawn = False

    def room(self, fetched: Fetched, start: int) -> int:
        """Return how many records of a fetch from `start` on may begin now; after `OffsetTracker.enter`.

        Where those are none, look again at the next progress.
        """
        caution = self._cautions.get(fetched.place)
        if caution is None or caution.epoch != fetched.epoch:
            if self._alone is caution:
                self._alone = None
            caution = self._cautions[fetched.place] = self._caution_for(fetched)
        records = fetched.records
        if start == len(records) or self._is_held_up(caution):
            return 0
        if caution.is_over:
            return len(records) - start
        return self._careful_room(caution, records, start)

    def positions(self) -> dict[TopicPartition, Position]:
        """Return what is to be committed: the tracker's positions, and those whose notes differ from what was told."""
        due = self._tracker.positions()
        for place, caution in self._cautions.items():
            position = self._tracker.position(place)
            if position is not None and position.epoch == caution.epoch:
                note = str(self._note(caution, position.offset))
                if place in due or note != caution.told[1]:
                    due[place] = Position(position.offset, position.epoch, note)
        return due

    def told(self, positions: Positions) -> None:
        """Take these for what the group has; also where it refuses them, for then nothing can be noted."""
        for place, (offset, epoch, note) in positions.items():
            caution = self._cautions.get(place)
            if caution is not None and caution.epoch == epoch:
                caution.told = (offset, note)

    def withdraw(self) -> None:
        """Have no more noted that this worker has begun: it stops, or its partitions go to others."""
        self._is_withdrawn = True

    def forget_all(self) -> None:
        """Drop what is known of all partitions: they were handed out again."""
        self._cautions.clear()
        self._alone, self._is_withdrawn = None, False

    def _caution_for(self, fetched: Fetched) -> _Caution:
        found = CrashNote.of(fetched.note)
        is_own = found.by == self._me  # the group has put this worker out, and it has not ended
        crashes = min(found.crashes - 1, 1) if is_own else found.crashes
        return _Caution(
            place=fetched.place,
            epoch=fetched.epoch,
            start=fetched.start,
            crashes=crashes,
            alone_to=0 if is_own else found.end,
            left=self._window if crashes >= _SUSPECT else 0,
            told=(fetched.start, fetched.note),
        )

    def _is_held_up(self, caution: _Caution) -> bool:
        """Whether requests that run, or are to run, alone forbid others to begin."""
        alone = self._alone
        if alone is None or not alone.runs_alone:
            return alone not in (None, caution)
        if self._tracker.unfinished_of(alone.place):
            return True
        position = self._tracker.position(alone.place)
        if position and alone.told != (position.offset, str(self._note(alone, position.offset))):
            self._tracker.commit_is_due.set()  # else what begins now could end the worker in their name
            return True
        self._alone, alone.runs_alone = None, False
        return False

    def _careful_room(self, caution: _Caution, records: Sequence[Record], start: int) -> int:
        first = records[start]
        count = len(records) - start
        position = self._tracker.position(caution.place)
        if position is None:
            return count  # nothing of it will be committed, so nothing can be noted
        in_groups = caution.left > 0 or first.offset < caution.alone_to
        if in_groups:
            count = 1 if first.offset < caution.alone_to else min(count, _GROUP, self._window)
            self._alone = caution
        caution.end = records[start + count - 1].offset + 1 if in_groups else 0
        caution.is_single = in_groups and count == 1
        if in_groups and self._tracker.unfinished:
            return 0
        caution.waits = True
        if not caution.has_begun:
            caution.start = position.offset
        note = self._note(caution, position.offset)
        if (
            first.offset == caution.alone_to - 1
            and self._crashes(caution, position.offset) >= _SUSPECT + self._max_crashes
        ):
            first.crashes = caution.crashes - _SUSPECT
        if note.by and caution.told != (position.offset, str(note)):
            self._tracker.commit_is_due.set()
            return 0
        caution.has_begun, caution.waits = True, False
        caution.runs_alone, caution.is_over = in_groups, not in_groups
        caution.left -= count
        return count

    def _note(self, caution: _Caution, position: int) -> CrashNote:
        """Return what is to be noted beside this position of a partition."""
        crashes = self._crashes(caution, position)
        is_first = not caution.has_begun or position == caution.start
        runs = caution.waits or self._tracker.unfinished_of(caution.place) > 0
        if runs and not self._is_withdrawn and (caution.end or is_first):
            among_others = max(crashes, min(crashes + 1, _SUSPECT))
            return CrashNote(among_others + caution.is_single, self._me, caution.end)
        return CrashNote(crashes, end=caution.alone_to if position < caution.alone_to else 0)

    def _crashes(self, caution: _Caution, position: int) -> int:
        """Return how many workers ended at this position."""
        return 0 if caution.has_begun and position != caution.start else caution.crashes
