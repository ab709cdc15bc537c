"""http-share: requests a second over HTTP, beside LitServe with the same engine."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

from examples.bench import noop
from examples.bench.benchmark import (
    Benchmark,
    Chart,
    Measurement,
    Spread,
    Target,
    interleaved,
    percentile,
    ratios,
)
from examples.bench.context import Context
from examples.bench.http_load import Answered, ask
from examples.bench.http_servers import ServerProcess, litserve, ours
from streams.messages import Request, encode

REQUESTS_PER_CONNECTION, MOST_REQUESTS, ROUNDS = 400, 6_000, 3
CONNECTIONS = (1, 32, 200)
PRODUCT, OTHER = "inferstream", "LitServe"
PATHS = {PRODUCT: "/inference/infer", OTHER: "/predict"}


@dataclass(frozen=True, slots=True)
class Load:
    """What both servers are asked: for which model, and over how many connections."""

    model: str
    connections: int

    @property
    def name(self) -> str:
        """The name of its figure."""
        return f"{self.model}, {self.connections}"


async def run(context: Context) -> Measurement:
    """Ask both servers in turns, one engine after the other; each has one process that runs the model."""
    for name in noop.MODELS:
        context.register(name, {**noop.TAGS, "engine": name})
    site = context.site(
        worker={"plugins": ["examples.bench.plugins"], "tasks": [noop.NAME]},
        http={"max_pending": 1024},
        logging={"level": "WARNING"},
    )
    rounds = context.rounds(ROUNDS)
    figures, rates, notes = {}, {}, []
    for model in noop.MODELS:
        async with contextlib.AsyncExitStack() as running:
            servers = {
                PRODUCT: running.enter_context(ours(site)),
                OTHER: running.enter_context(litserve(site, is_batched=model != noop.NAME)),
            }
            for server in servers.values():
                await server.listening()
            for connections in CONNECTIONS:
                load = Load(model, connections)
                taken: dict[str, list[Answered]] = {side: [] for side in servers}
                sides = {
                    side: functools.partial(_turn, context, side, server, load, taken[side])
                    for side, server in servers.items()
                }
                for turn in sides.values():  # loads the model, opens what is opened once
                    await turn()
                rates[load.name] = await interleaved(sides, rounds, context.turns(rounds))
                figures[load.name] = ratios(rates[load.name], PRODUCT, over=OTHER)
                notes.append(_in_words(load, taken))
    return Measurement(
        figures=figures,
        charts=[Chart(f"requests a second, {name}", "1/s", its) for name, its in rates.items()],
        notes=notes,
        details={"per_s": rates},
    )


async def _turn(context: Context, side: str, server: ServerProcess, load: Load, taken: list[Answered]) -> float:
    most = min(MOST_REQUESTS, REQUESTS_PER_CONNECTION * load.connections)
    count = context.scaled(most, quick=2 * load.connections)
    body = encode(Request(task=noop.NAME, engine=load.model, model_name=load.model, data={"value": noop.VALUE}))
    answered = await ask(server.url, PATHS[side], [body] * count, load.connections)
    taken.append(answered)
    return answered.per_s


def _in_words(load: Load, taken: dict[str, list[Answered]]) -> str:
    sides = ", ".join(
        f"{side} {Spread.of([one.per_s for one in rounds[1:]]).median:.0f}/s, p50 "
        f"{percentile([ms for one in rounds[1:] for ms in one.ms], 50):.1f} ms"
        for side, rounds in taken.items()
    )
    return f"{load.name} connections: {sides}"


BENCHMARK = Benchmark(
    name="http-share",
    what="requests a second over HTTP, no-op and batching engine, 1, 32 and 200 connections; share of LitServe's",
    targets=[Target(f"{model}, {connections}", ">=", 0.6) for model in noop.MODELS for connections in CONNECTIONS],
    run=run,
)
