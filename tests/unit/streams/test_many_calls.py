"""Many requests at once: their order, how many are under way, and what one of them, or their source, may do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from streams.client_errors import ClientError, NoAnswer, TaskNotOpened
from streams.many_calls import outcomes
from streams.messages import Request, Result

PATIENCE_S = 60.0


def ask(number: int | str) -> Request:
    return Request(id=str(number), task="t", engine="e", model_name="m", data={})


class Workers:
    """Answers each request after some turns of the loop, unless told otherwise."""

    def __init__(self) -> None:
        self.under_way: Counter[str] = Counter()
        self.most = 0
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}

    async def infer(self, request: Request) -> Result:
        self.begun.append(request.id)
        self.under_way[request.id] += 1
        self.most = max(self.most, self.under_way.total())
        try:
            for _ in range(len(self.begun) % 5):
                await asyncio.sleep(0)
            if gate := self.gates.get(request.id):
                await gate.wait()
            if error := self.errors.get(request.id):
                raise error
        finally:
            self.under_way[request.id] -= 1
        return Result(success=True, id=request.id, task="t", engine="e", model_name="m", processing_time=0, timestamp=0)

    async def ended(self, requests: Iterable[Request] | AsyncIterable[Request], most: int = 8) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        async with asyncio.timeout(PATIENCE_S), aclosing(self.all(requests, most)) as ending:
            async for one in ending:
                found.append(one)
        return found

    def all(self, requests: Iterable[Request] | AsyncIterable[Request], most: int = 8) -> Any:
        return outcomes(requests, prepared, self.infer, most=most)


def prepared(request: Request) -> Request:
    if request.task != "t":
        raise TaskNotOpened(request.task)
    return request


async def test_of_ten_thousand_no_more_are_under_way_than_asked_for_and_none_is_missing() -> None:
    workers, drawn, taken, ahead = Workers(), 0, 0, 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        for number in range(10_000):
            drawn += 1
            yield ask(number)

    ids = set()
    async for identity, outcome in workers.all(requests(), 50):
        taken += 1
        ahead = max(ahead, drawn - taken)
        assert isinstance(outcome, Result)
        ids.add(identity)
    assert (len(ids), taken) == (10_000, 10_000)
    assert workers.most <= 50
    assert ahead <= 51


async def test_results_come_as_they_end_and_a_slow_one_holds_up_no_other() -> None:
    workers = Workers()
    workers.gates["0"] = asyncio.Event()
    seen = []
    async with asyncio.timeout(PATIENCE_S):
        async for identity, _ in workers.all(map(ask, range(100)), 4):
            seen.append(identity)
            if len(seen) == 99:
                workers.gates["0"].set()
    assert seen[-1] == "0"


@pytest.mark.parametrize("requests", [[], (), iter(())])
async def test_nothing_to_do_ends_at_once(requests: Iterable[Request]) -> None:
    assert await Workers().ended(requests) == []


async def test_a_request_without_a_result_costs_the_others_nothing() -> None:
    workers = Workers()
    workers.errors["3"] = NoAnswer("late", "3")
    found = dict(await workers.ended(map(ask, range(20))))
    assert isinstance(found.pop("3"), ClientError)
    assert len(found) == 19


async def test_of_two_with_one_id_the_second_is_sent_when_the_first_has_ended() -> None:
    workers = Workers()
    found = await workers.ended([ask("same"), ask("same"), ask("other"), ask("same")])
    assert Counter(identity for identity, _ in found) == {"same": 3, "other": 1}
    assert workers.begun.count("same") == 3

    class Watching(Workers):
        async def infer(self, request: Request) -> Result:
            assert not self.under_way[request.id]
            return await super().infer(request)

    assert len(await Watching().ended([ask("same")] * 10)) == 10


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_source_that_raises_is_told_after_the_outcomes_of_what_it_gave(kind: str) -> None:
    def broken() -> Iterator[Request]:
        yield from map(ask, range(5))
        raise KeyError("row 5")

    async def slowly() -> AsyncIterator[Request]:
        for request in broken():
            await asyncio.sleep(0)
            yield request

    found = []
    with pytest.raises(KeyError, match="row 5"):
        async for identity, _ in Workers().all(broken() if kind == "sync" else slowly()):
            found.append(identity)
    assert sorted(found) == [str(number) for number in range(5)]


async def test_results_are_yielded_while_an_asynchronous_source_has_nothing_yet() -> None:
    more, over = asyncio.Event(), False

    async def source() -> AsyncIterator[Request]:
        nonlocal over
        try:
            yield ask("first")
            await more.wait()
            yield ask("second")
        finally:
            over = True

    async with asyncio.timeout(PATIENCE_S), aclosing(Workers().all(source())) as ending:
        assert (await anext(ending))[0] == "first"
        more.set()
        assert (await anext(ending))[0] == "second"
    assert over


async def test_leaving_early_cancels_what_is_under_way() -> None:
    workers = Workers()
    workers.gates = {str(number): asyncio.Event() for number in range(1, 9)}
    async with asyncio.timeout(PATIENCE_S), aclosing(workers.all(map(ask, range(100)))) as ending:
        await anext(ending)
        assert workers.under_way.total()
    assert not workers.under_way.total()


async def test_who_is_cancelled_while_waiting_leaves_nothing_behind() -> None:
    workers = Workers()
    workers.gates = {str(number): asyncio.Event() for number in range(8)}
    waiting = asyncio.create_task(workers.ended(map(ask, range(100))))
    async with asyncio.timeout(PATIENCE_S):
        while workers.under_way.total() < 8:
            await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not workers.under_way.total()


async def test_a_request_that_would_never_be_answered_ends_all_at_once() -> None:
    workers = Workers()
    workers.gates["0"] = asyncio.Event()
    with pytest.raises(TaskNotOpened):
        await workers.ended(iter([ask(0), Request(task="x", engine="e", model_name="m", data={})]))
    assert not workers.under_way.total()
