"""Topic names come from one place and follow the prefix."""

from __future__ import annotations

from streams.kafka.topics import Topics


def test_names_follow_the_prefix_and_the_task() -> None:
    topics = Topics("team-a")
    assert topics.requests("asr") == "team-a.requests.asr"
    assert topics.results("asr") == "team-a.results.asr"
    assert topics.dead_letters("asr") == "team-a.dlq.asr"
    assert topics.events == "team-a.events"


def test_the_default_prefix_is_inference() -> None:
    assert Topics().requests("vlm") == "inference.requests.vlm"


def test_every_task_needs_its_three_topics_and_all_share_the_events() -> None:
    assert set(Topics().all_of(["asr", "ocr"])) == {
        "inference.events",
        *(f"inference.{kind}.{task}" for kind in ("requests", "results", "dlq") for task in ("asr", "ocr")),
    }
