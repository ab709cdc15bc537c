"""What workers import to know the benchmarks' own tasks and engines; only there are they registered."""

from engines.registry import register_engine
from examples.bench import noop, timed
from handlers.registry import model_registry

model_registry.register_handler_manually(noop.NAME, noop.NAME, noop.NoopHandler)
register_engine(noop.NAME, noop.NoopEngine)
register_engine(noop.BATCHED, noop.BatchedEngine)
for task in timed.TASKS:
    model_registry.register_handler_manually(task, task, timed.TimedHandler)
register_engine(timed.ENGINE, timed.TimedEngine)
