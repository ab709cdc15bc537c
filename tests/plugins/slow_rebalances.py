"""Delays between any two steps of a rebalance: of the worker that imports it. `SLOW_REBALANCES` is the seed."""

from __future__ import annotations

import os

from tests.plugins.slow_steps import install

install(setattr, int(os.environ.get("SLOW_REBALANCES", "0")))
