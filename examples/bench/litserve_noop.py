"""The baseline of http-share: LitServe with an engine that gives back what it is given.

`python -m examples.bench.litserve_noop --port PORT [--batched]`: one worker process beside that of the server.
With `--batched` requests that come together run together, and a batch takes as long as the product's.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import litserve

from examples.bench.noop import BATCH_S

MAX_BATCH = 64
BATCH_WAIT_S = 0.002


class Echo(litserve.LitAPI):  # type: ignore[misc]
    """Answers with the request's value."""

    def setup(self, device: str) -> None:
        pass

    # LitServe would make a pydantic model of an annotation, and refuse a plain object.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return request["data"]["value"]

    def predict(self, value: Any) -> Any:
        if self.max_batch_size > 1:
            time.sleep(BATCH_S)
        return value

    def batch(self, values: list[Any]) -> list[Any]:
        return values

    def unbatch(self, values: list[Any]) -> list[Any]:
        return values

    def encode_response(self, value: Any) -> dict[str, Any]:
        return {"value": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batched", action="store_true")
    asked = parser.parse_args()
    api = Echo(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_S) if asked.batched else Echo()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=asked.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
