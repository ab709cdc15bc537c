"""The manager as a whole: it is light to import."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_managers_brings_in_no_heavy_library() -> None:
    script = (
        "import sys; import engines.inference, engines.models.model_manager; "
        "from engines import inference_manager; assert inference_manager.get_stats()['total_inferences'] == 0; "
        "print(sorted({'torch', 'transformers', 'mlflow', 'faust', 'boto3'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_log_lines_of_a_script_leave_its_standard_output_alone() -> None:
    script = (
        "import structlog\n"
        "from engines import inference_manager, model_manager\n"
        "assert inference_manager and model_manager\n"
        "structlog.get_logger('engines').info('model_loaded', model='m/1')\n"
        "print('the answer')\n"
        "structlog.configure(logger_factory=structlog.PrintLoggerFactory())\n"
        "assert inference_manager\n"
        "structlog.get_logger('engines').info('as the script configures it')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = ran.stdout.splitlines()
    assert first == "the answer"
    assert "as the script configures it" in second
    assert "model_loaded" in ran.stderr
