"""What of Faust's consumer decides which offsets are committed, and when, made ours.

Faust loses messages that finish out of order; here only what `OrderedAcker` vouches for is committed.
docs/decisions/manual-in-order-acks.md says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from streams.acks import OrderedAcker

_NOT_COMMITTED_S = 0.05


class CommittingConsumer(driver.Consumer):
    """Commits what the acker vouches for: at Faust's interval, and ahead of it where much is acked."""

    acker: OrderedAcker

    async def wait_empty(self) -> None:
        """Wait until everything in flight is answered, and commit it; at once where the consumer is stopping."""
        await self.wait(self.acker.drained())
        await self.commit_and_end_transactions()

    async def commit_all(self) -> None:
        """Return once all that is answered is committed, as far as it can be committed by this worker at all."""
        while self._filter_committable_offsets(self._filter_tps_with_pending_acks()):
            if not await self.commit():
                await self.sleep(_NOT_COMMITTED_S)

    @Service.task
    async def _commit_when_due(self) -> None:
        """Commit ahead of the interval where much is acked: the window has room only for what is committed."""
        while not self.should_stop:
            await self.wait(self.acker.commit_is_due.wait())
            if not self.flow_active:
                await self.wait(self.can_resume_flow.wait())
            elif not await self.commit():
                await self.sleep(_NOT_COMMITTED_S)  # another commit was under way, or a rebalance is

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Commit what is still assigned to this worker.

        Faust draws a table for its log with every commit, a twentieth of a busy worker's time. And it notes an offset
        as committed even where the commit has failed, so that it is not committed until something newer is.
        """
        assignment = self.assignment()
        assigned = {tp: offset for tp, offset in offsets.items() if tp in assignment}
        if not assigned or not await self._commit(assigned):
            return False
        self._committed_offset.update(assigned)
        self.app.monitor.on_tp_commit(assigned)
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        generation = self.app.consumer_generation_id
        did_commit = await super()._commit(offsets)
        if did_commit:
            self.acker.committed(generation, offsets.items())
        return did_commit

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for place in self.acker.positions(self.app.consumer_generation_id):
            if topics is None or place in topics or place[0] in topics:
                yield TP(*place)

    def _new_offset(self, tp: TP) -> int | None:
        return self.acker.positions(self.app.consumer_generation_id).get(tp)
