"""Where the framework itself keeps the variables of all processes as one: nothing to agree upon."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from polytape.engines.contract import Variable


def home(model: Any) -> AbstractContextManager[Any]:
    del model
    return nullcontext()


def for_all_replicas(make: Callable[[], Any]) -> None:
    make()


def on_replicas(function: Callable[..., Any]) -> None:
    del function


def spread_batches(model: Any, function: Any) -> Any:
    del model
    return function


def of_first_replica(nest: Any) -> Any:
    return nest


def processes() -> int:
    return 1


def process_number() -> int:
    return 0


def check_together(told: Mapping[str, Any]) -> None:
    del told


def gather(told: Any) -> list[Any]:
    return [told]


def differing(variables: Sequence[Variable]) -> list[int]:
    del variables
    return []


def alone() -> AbstractContextManager[None]:
    return nullcontext()


def under_way() -> AbstractContextManager[None]:
    return nullcontext()  # a compiler knows what can wait


def any_process(flags: np.ndarray) -> np.ndarray:
    return flags


def broadcast(variables: Sequence[Variable]) -> None:
    del variables


def unwrapped(module: Any) -> Any:
    return module
