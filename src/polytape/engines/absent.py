"""Variables without a gradient in a step: polytape tells of them itself, Keras need not."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence

from polytape.engines.contract import Tensor, Variable


def present(
    gradients: Sequence[Tensor | None], variables: Sequence[Variable]
) -> tuple[list[Tensor], list[Variable]]:
    """Those that are there, and their variables."""
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    return [g for g, _ in pairs], [v for _, v in pairs]


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Without the warning of an optimizer that must be given all of its variables."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gradients do not exist")
        yield
