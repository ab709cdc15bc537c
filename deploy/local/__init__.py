"""The local stack: a broker, an S3 store and an MLflow server as child processes of this one."""

from deploy.local.kafka_cluster import KafkaCluster, KafkaRelease
from deploy.local.part import Part, PartStatus, StackError
from deploy.local.stack import LocalStack

__all__ = ["KafkaCluster", "KafkaRelease", "LocalStack", "Part", "PartStatus", "StackError"]
