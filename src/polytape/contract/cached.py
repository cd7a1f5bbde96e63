"""A property that is worked out once, by threads that take turns."""

from functools import cached_property
from typing import Any, TypeVar

T = TypeVar("T")


class cached(cached_property[T]):  # noqa: N801  (used like a function)
    """`functools.cached_property` without the lock that it has before Python 3.12.

    Replicas of TensorFlow are threads that wait for each other where they add up: one that waits
    with a lock which another one needs would wait for ever.
    """

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        name: Any = self.attrname
        if name not in vars(instance):
            vars(instance)[name] = self.func(instance)
        return vars(instance)[name]
