"""Short texts beside long ones that fill the cache, while workers join and are killed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from deploy.local import LocalStack
from engines.models.model_manager import ModelManager
from streams.client import InferenceClient
from streams.messages import Request, Result
from tests.integration.worker_process import Site, WorkerProcess
from tests.unit.engines.tiny_models import save_llama

MODEL = "tiny-of-long-texts"
LONG_TOKENS = 3_000
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4
"""Bytes of cache of one token: keys and values, layers, heads, head size, bytes of a number."""
AT_ONCE = 4
PATIENCE_S = 600.0


def asked(identity: str, tokens: int) -> Request:
    return Request(
        id=identity,
        task="text-generation",
        engine="transformers",
        model_name=MODEL,
        data={"inputs": "a b c"},
        options={"max_new_tokens": tokens},
    )


@pytest.mark.timeout(900)
async def test_long_texts_hold_no_short_ones_back_and_run_once_through_rebalances(
    local_stack: LocalStack, model_manager: ModelManager, tmp_path: Path
) -> None:
    folder = save_llama(tmp_path / "llama", chat=False, positions=LONG_TOKENS + 100)
    model_manager.register_model_to_mlflow(
        model_name=MODEL,
        model_source="huggingface",
        model_path=str(folder),
        tags={"task": "text-generation", "engine": "transformers"},
    )
    site = Site(
        tmp_path,
        local_stack.settings(),
        kafka={"rebalance_timeout_s": 8.0, "session_timeout_s": 6.0, "heartbeat_interval_s": 2.0},
        worker={"tasks": ["text-generation"], "warm": [MODEL]},
        transformers={"kv_cache_bytes": TOKEN_BYTES * (LONG_TOKENS + 500)},
    )
    await site.create_topics(["text-generation"])
    long_ones: list[Result] = []
    before_a_long_one = 0
    has_joined = asyncio.Event()
    with WorkerProcess(site) as worker:
        await worker.started()
        async with InferenceClient(site.settings.kafka, tasks=["text-generation"]) as client:

            async def ask_a_long_one(number: int) -> None:
                long_ones.append(await client.infer(asked(f"long {number}", LONG_TOKENS), timeout_s=PATIENCE_S))

            async def ask_short_ones(number: int) -> None:
                nonlocal before_a_long_one
                count = 0
                while len(long_ones) < 2:
                    result = await client.infer(asked(f"short {number}-{count}", 4), timeout_s=PATIENCE_S)
                    assert result.success
                    count += 1
                    before_a_long_one += not long_ones

            async def disturb() -> None:
                with WorkerProcess(site) as other:
                    await other.started()
                    has_joined.set()
                    await asyncio.sleep(2.0)
                    other.kill()

            async with asyncio.TaskGroup() as running:
                for number in range(2):
                    running.create_task(ask_a_long_one(number))
                for number in range(AT_ONCE):
                    running.create_task(ask_short_ones(number))
                running.create_task(disturb())
        assert worker.terminate() == 0
    assert [one.success for one in long_ones] == [True, True]
    assert before_a_long_one > 100  # a batch has 32 rows: so many passed the second long one when it could be passed
    assert has_joined.is_set()
    answers = [
        json.loads(record.value)["id"] for record in await site.everything(site.topics.results("text-generation"))
    ]
    assert sorted(one for one in answers if one.startswith("long")) == ["long 0", "long 1"]
