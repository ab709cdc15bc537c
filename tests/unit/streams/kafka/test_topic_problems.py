"""What Kafka has against a topic is a sentence with a way out."""

from __future__ import annotations

import pytest
from aiokafka.errors import IncompatibleBrokerVersion, InvalidReplicationFactorError

from streams.kafka.topics import TopicProblem, refusal_of
from streams.settings import KafkaSettings

KAFKA = KafkaSettings(replication_factor=3)


@pytest.mark.parametrize(
    ("code", "message", "part"),
    [
        (17, "Topic 'a_b' collides with existing topic: a.b", "choose another kafka.topic_prefix"),
        (17, "", "its name is not allowed"),
        (29, "", "may not make or change topics"),
        (31, "", "may not make or change topics"),
        (38, "", "there are 2 brokers; set it to 2 or less"),
        (7, "", "the cluster has no controller"),
        (41, "", "the cluster has no controller"),
        (44, "forbidden by policy", "forbidden by policy"),
        (None, "not known", "not known"),
        (99, "", "error 99"),
    ],
)
def test_each_refusal_is_told_with_what_to_do(code: int | None, message: str, part: str) -> None:
    text = refusal_of(KAFKA, "inference.events", code, message, 2)
    assert part in text
    assert "; " in text or ":" in text
    assert "None" not in text


def test_the_codes_are_those_of_the_client() -> None:
    assert InvalidReplicationFactorError.errno == 38
    assert getattr(IncompatibleBrokerVersion(), "errno", None) is None


def test_a_hidden_topic_is_not_called_missing() -> None:
    assert "does not exist" not in str(TopicProblem.not_allowed("t", "alice"))
    assert "does not exist" in str(TopicProblem.missing("t"))
