"""A tiny vision-language model that answers questions about drawings, and the script that trained it."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""A folder as `save_pretrained` leaves it."""
