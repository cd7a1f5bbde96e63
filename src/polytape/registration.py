"""Saved models are found again whether polytape or Keras was imported first.

Keras finds a class of ours by the name under which it is registered, which needs Keras. Importing
polytape does not import it: a program may still choose the backend, and reports need none. So the
classes are registered at once if Keras is there, else as soon as anyone has imported it; if that is
one of our own modules, which is then half-way through its import, when the front door is next used.
"""

import functools
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

HOMES = ("training.model", "combiner", "differentiation.features")
WITHOUT_KERAS = {"registration", "startup", "cli", "reports", "diagnostics"}


def register_when_keras_is_there() -> None:
    if "keras" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterKeras())


@functools.cache
def register() -> None:
    """Import what has classes that Keras saves: they register themselves."""
    for home in HOMES:
        import_module(f"polytape.{home}")
    import_module("polytape.catalogue").catalogue()


def _half_way() -> bool:
    """Whether a module of ours is being imported that needs Keras, and so imports it just now."""
    parts = (name.split(".")[1] for name in sys.modules if name.startswith("polytape."))
    return not WITHOUT_KERAS.issuperset(parts)


class _AfterKeras(MetaPathFinder):
    """Finds Keras as the other finders do, and has `register` called after its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            if not _half_way():
                register()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
