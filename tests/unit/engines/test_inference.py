"""The manager as a whole: it is light to import."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.processes
def test_importing_the_managers_brings_in_no_heavy_library() -> None:
    script = (
        "import sys; import engines.inference, engines.models.model_manager; "
        "from engines import inference_manager; assert inference_manager.get_stats()['total_inferences'] == 0; "
        "print(sorted({'torch', 'transformers', 'mlflow', 'faust', 'boto3'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
