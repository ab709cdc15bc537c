"""What a worker imports to have the unruly tasks and engine."""

from engines.registry import register_engine
from handlers.registry import model_registry
from tests.plugins.unruly import HANDLERS, UnrulyEngine

for task, handler in HANDLERS.items():
    model_registry.register_handler_manually(task, task, handler)
register_engine(UnrulyEngine.name, UnrulyEngine)
