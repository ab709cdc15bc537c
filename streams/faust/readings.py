"""How far the partitions of one assignment are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.delivery.offsets import Fetched, TopicPartition
from streams.faust.assigned_partitions import AssignedPartitions


@dataclass(slots=True, eq=False)
class Reading:
    """How far one partition is read."""

    epoch: int
    position: int | None
    """Where the next record taken has to come from; None until it is known where the log begins."""
    committed: int | None
    begins: bool = True
    """Whether nothing of this epoch was taken yet."""
    is_lost: bool = False
    """Whether it is being looked up where the log begins."""
    is_replaced: bool = False
    """Whether its log is known to be another than the one that was read."""
    damaged_at: tuple[int, int] = (-1, 0)
    """The position of a batch that could not be read, and how often."""


@dataclass(slots=True, eq=False)
class Assignment:
    """One assignment of the group, and all that is known of its partitions."""

    generation: int
    partitions: AssignedPartitions
    readings: dict[TopicPartition, Reading]
    topic_ids: dict[str, str]
    due: list[Fetched] = field(default_factory=list)
    """What has to be delivered though it holds no records."""
    fault: BaseException | None = None
    """What ended the search for the start of a log."""


def unreadable(
    place: TopicPartition, offset: int | None, reason: str, behind: int | None, group_id: str
) -> str:
    """Say that a partition stops at a batch, and how to go on behind it; `behind` is None where nobody knows."""
    topic, number = place
    to_offset = "the offset behind it" if behind is None else str(behind)
    return (
        f"the batch at offset {offset} of topic {topic} partition {number} cannot be read ({reason}); what is "
        "before it is answered, what is behind it waits, other partitions go on. To go on behind it stop the "
        f"workers of group {group_id}, run kafka-consumer-groups.sh --bootstrap-server <broker> "
        f"--group {group_id} --topic {topic}:{number} --reset-offsets --to-offset {to_offset} --execute, "
        "and start them again"
    )
