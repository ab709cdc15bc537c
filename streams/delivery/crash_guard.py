"""Finds the request that crashes every worker that gets it, by notes in the metadata of committed offsets.

A worker that dies at once (a crash in native code, a kill for its memory, a hang that no interrupt ends) cannot
report why. So before the first request of a partition begins, the worker commits a note beside the offset: it has
begun here. It removes the note as soon as the position moves, or when it stops. A worker that finds a note knows
that another one died at this position, or that it was itself blocked there until the group removed it.
docs/decisions/crashing-requests.md says the rest.
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
"""How many workers in a row must die at a position before its partition is read in groups."""

_GROUP = 16
"""How many requests of a partition then run together, with nothing beside them."""


class CrashNote(NamedTuple):
    """The metadata of a committed offset; empty where there is nothing to note."""

    crashes: int = 0
    """How many workers died at this offset, or were blocked there until the group removed them.

    Of those before a request ran alone, at most 2 count.

    Where `by` is set, that worker is included.
    """
    by: str = ""
    """The process that has begun here and has not said since that it is alive."""
    end: int = 0
    """Where the group of requests that it ran ends; 0 where it ran no group."""

    @classmethod
    def of(cls, text: str) -> CrashNote:
        """Parse `text`; return an empty note where it is something else."""
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
    """The position at which the first request began or will begin."""
    crashes: int
    """How many workers died there, as `CrashNote` counts them."""
    alone_to: int
    """Before this offset requests run one by one."""
    left: int
    """How many requests are still to be run in groups."""
    told: tuple[int, str]
    """The committed offset and its note, as the group has them."""
    end: int = 0
    """Where the running or next group of requests ends; 0 where there are no groups."""
    has_begun: bool = False
    """Whether a request began in this epoch."""
    waits: bool = False
    """Whether requests wait until the note is committed."""
    is_single: bool = False
    """Whether the group is one request."""
    runs_alone: bool = False
    """Whether a group runs, with nothing beside it."""
    is_over: bool = False
    """Whether requests begin without a note from now on."""


class CrashGuard:
    """Decides which requests may begin, and which note is committed first. Lives on one event loop.

    A partition at which two workers died is read in groups of 16 requests for the length of a window, and one by one
    where a worker died at such a group. While a group runs, nothing else runs, so nothing else can be the cause of a
    crash. A request that ran alone while `max_crashes` workers died in a row is handed over with `Record.crashes`
    set: it must not run again. A worker that moves the position, stops or gives the partition back has not died
    there.
    """

    def __init__(self, tracker: OffsetTracker, *, max_crashes: int, window: int) -> None:
        self._tracker = tracker
        self._max_crashes = max_crashes
        self._window = window
        self._me = secrets.token_hex(4)
        self._cautions: dict[TopicPartition, _Caution] = {}
        self._alone: _Caution | None = None
        """The partition of the group that runs or is next."""
        self._is_withdrawn = False

    def room(self, fetched: Fetched, start: int) -> int:
        """Return how many records of a fetch may begin now, from `start` on. Call it after `OffsetTracker.enter`.

        Where it returns 0, ask again at the next progress.
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
        """Return what to commit: the tracker's positions, and those whose note has changed."""
        due = self._tracker.positions()
        for place, caution in self._cautions.items():
            position = self._tracker.position(place)
            if position is not None and position.epoch == caution.epoch:
                note = str(self._note(caution, position.offset))
                if place in due or note != caution.told[1]:
                    due[place] = Position(position.offset, position.epoch, note)
        return due

    def told(self, positions: Positions) -> None:
        """Note that these were committed, or refused: no note can be kept then."""
        for place, (offset, epoch, note) in positions.items():
            caution = self._cautions.get(place)
            if caution is not None and caution.epoch == epoch:
                caution.told = (offset, note)

    def withdraw(self) -> None:
        """Remove this worker's notes: it stops, or its partitions go to others."""
        self._is_withdrawn = True

    def forget_all(self) -> None:
        """Forget all partitions: they were reassigned."""
        self._cautions.clear()
        self._alone, self._is_withdrawn = None, False

    def _caution_for(self, fetched: Fetched) -> _Caution:
        found = CrashNote.of(fetched.note)
        return _Caution(
            place=fetched.place,
            epoch=fetched.epoch,
            start=fetched.start,
            crashes=found.crashes,
            alone_to=found.end,
            left=self._window if found.crashes >= _SUSPECT else 0,
            told=(fetched.start, fetched.note),
        )

    def _is_held_up(self, caution: _Caution) -> bool:
        """Whether no other request may begin, as one runs alone or is about to."""
        alone = self._alone
        if alone is None or not alone.runs_alone:
            return alone not in (None, caution)
        if self._tracker.unfinished_of(alone.place):
            return True
        position = self._tracker.position(alone.place)
        if position and alone.told != (position.offset, str(self._note(alone, position.offset))):
            # Until the note is removed, a crash by another request would be counted as theirs.
            self._tracker.commit_is_due.set()
            return True
        self._alone, alone.runs_alone = None, False
        return False

    def _careful_room(self, caution: _Caution, records: Sequence[Record], start: int) -> int:
        first = records[start]
        count = len(records) - start
        position = self._tracker.position(caution.place)
        if position is None:
            return count  # nothing of it will be committed, so there can be no note
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
        """Return the note to commit with this position of a partition."""
        crashes = self._crashes(caution, position)
        is_first = not caution.has_begun or position == caution.start
        runs = caution.waits or self._tracker.unfinished_of(caution.place) > 0
        if runs and not self._is_withdrawn and (caution.end or is_first):
            among_others = max(crashes, min(crashes + 1, _SUSPECT))
            return CrashNote(among_others + caution.is_single, self._me, caution.end)
        return CrashNote(crashes, end=caution.alone_to if position < caution.alone_to else 0)

    def _crashes(self, caution: _Caution, position: int) -> int:
        """Return how many workers died at this position."""
        return 0 if caution.has_begun and position != caution.start else caution.crashes
