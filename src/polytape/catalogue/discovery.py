"""Discovery: every method in `methods/` and every stage in `stages/`, by importing their files."""

import pkgutil
from functools import cache
from importlib import import_module

from polytape import contract, methods, stages
from polytape.contract import Method, received


@cache
def _import_all() -> None:
    for package in (methods, stages):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            import_module(module.name)


def _found(*, inside: str) -> dict[str, type[Method]]:
    _import_all()
    found = contract.registered().values()
    chosen = {c.__name__: c for c in found if c.__module__.startswith(inside)}
    return dict(sorted(chosen.items(), key=lambda item: item[0].lower()))


def all_methods() -> dict[str, type[Method]]:
    """The published methods, by class name."""
    return _found(inside="polytape.methods.")


def catalogue() -> dict[str, type[Method]]:
    """Methods and stages, by class name."""
    return _found(inside="polytape.")


def find(name: str) -> type[Method]:
    """The class of that name, in any spelling."""
    _import_all()
    return contract.find(name)


def resolve(method: "str | Method") -> Method:
    """A method from a name ("upgrad") or from itself."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return find(method)()
    if isinstance(method, type) and issubclass(method, Method):
        raise TypeError(
            f"Expected a method, as in combine=pt.{method.__name__}(). Received the class "
            f"{method.__name__} itself: add the parentheses."
        )
    if isinstance(method, (list, tuple)):
        raise TypeError(
            "Methods in a row are a chain, pt.Chain(pt.Normalize(), pt.PCGrad()). "
            f"{received(method)}"
        )
    raise TypeError(
        "Expected the name of a method or a method such as pt.UPGrad(). "
        f"Received: {method!r} of type {type(method).__name__}."
    )
