"""Every benchmark by its name, in the order in which they run."""

from __future__ import annotations

import importlib

from examples.bench.benchmark import Benchmark

MODULES = {
    "stream-share": "examples.bench.stream_share",
    "stream-latency": "examples.bench.stream_latency",
    "http-share": "examples.bench.http_share",
    "call-overhead": "examples.bench.call_overhead",
    "generation-burst": "examples.bench.generation_burst",
    "generation-poisson": "examples.bench.generation_poisson",
    "generation-vs-hf": "examples.bench.generation_vs_hf",
    "asr-share": "examples.bench.asr_share",
    "pipeline-share": "examples.bench.pipeline_share",
    "head-of-line": "examples.bench.head_of_line",
    "cache": "examples.bench.cache",
    "hot-swap": "examples.bench.hot_swap",
    "memory": "examples.bench.memory",
    "memory-returned": "examples.bench.memory_returned",
}
"""Benchmark -> the module that has it as BENCHMARK."""


def load(name: str) -> Benchmark:
    """Return the benchmark called `name`, which is in MODULES."""
    found: Benchmark = importlib.import_module(MODULES[name]).BENCHMARK
    return found
