"""Saved models are found again whether polytape or Keras was imported first.

Keras finds a class of ours by the name under which it is registered, which needs Keras. Importing
polytape does not import it: a program may still choose the backend, and reports need none. So the
classes are registered at once if Keras is there, else as soon as anyone has imported it.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

HOMES = ("training.model", "combiner", "differentiation.features")


def register_when_keras_is_there() -> None:
    if "keras" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def register() -> None:
    """Import what has classes that Keras saves: they register themselves."""
    for home in HOMES:
        import_module(f"polytape.{home}")
    import_module("polytape.catalogue").catalogue()


class _AfterKeras(MetaPathFinder):
    """Has `register` called once Keras is imported, and no module of ours is half imported.

    It finds Keras and the modules of polytape as the other finders do, and counts those whose
    import has begun: Keras may be asked for by one of ours.
    """

    def __init__(self) -> None:
        self.begun = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "keras" and not fullname.startswith("polytape."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.begun += 1
            try:
                execute(module)
            finally:
                self.begun -= 1
            if not self.begun and "keras" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
