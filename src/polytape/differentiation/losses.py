"""The losses that a loop of one's own hands over: named, checked, one or two for each objective."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from polytape.contract import Tensor, check_objective_names, received
from polytape.engines import GroupName, check_native

HALVES = (("half_batches", 0), ("half_batches", 1))  # as kinds of evidence name them


class Losses(NamedTuple):
    """T objectives.

    names   of them
    groups  what is differentiated, by name: "losses"; or, where each is a pair, those of the first
            halves of the batch and those of the second
    """

    names: list[str]
    groups: dict[GroupName, list[Tensor]]

    @classmethod
    def of(cls, given: Any, source: str = "The objective function must return") -> "Losses":
        """From a dict of losses, or from a list, named "0", "1", ...

        source  begins the error for anything else
        """
        named = dict(enumerate(given)) if isinstance(given, (list, tuple)) else given
        if not isinstance(named, Mapping) or not named:
            raise TypeError(
                f'{source} a dict {{"name": scalar loss}} with at least one entry, or a list of '
                f"losses. {_received(given)}"
            )
        if named is not given:
            named = dict(zip(map(str, named), named.values(), strict=True))
        check_objective_names(named)
        sizes = {name: len(_halves(loss)) for name, loss in named.items()}
        if set(sizes.values()) not in ({1}, {2}):
            raise ValueError(
                "Every objective has one loss, or every objective has a pair of losses, one for "
                f"each half of the batch. Received: {sizes} losses."
            )
        for name, loss in named.items():
            for half in _halves(loss):
                check_scalar(name, half)
        columns = [list(column) for column in zip(*map(_halves, named.values()), strict=True)]
        if len(columns) == 1:
            return cls(list(named), {"losses": columns[0]})
        return cls(list(named), dict(zip(HALVES, columns, strict=True)))

    @property
    def whole(self) -> list[Tensor]:
        """() the loss of each objective on the whole batch."""
        if "losses" in self.groups:
            return self.groups["losses"]
        return [0.5 * (a + b) for a, b in zip(*self.groups.values(), strict=True)]

    @classmethod
    def returned(cls, given: Any) -> tuple["Losses", Any]:
        """What an objective function returned: losses, or (losses, outputs)."""
        if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], (Mapping, list)):
            return cls.of(given[0]), given[1]
        return cls.of(given), None


def _halves(loss: Any) -> tuple[Any, ...]:
    return tuple(loss) if isinstance(loss, (tuple, list)) else (loss,)


def _received(given: Any) -> str:
    """The end of an error; of a tensor its shape, never its content."""
    if ops.is_tensor(given):
        return (
            f"Received: one tensor of shape {tuple(given.shape)}. Several losses need names: "
            '{"a": loss_a, "b": loss_b}; predictions go beside them: return losses, outputs.'
        )
    return received(given)


def check_scalar(name: str, loss: Any) -> None:
    """Raise unless the loss of an objective is a scalar tensor."""
    check_native(f"The loss of objective {name!r} is", loss)
    if not ops.is_tensor(loss) and not isinstance(loss, keras.KerasTensor):
        raise TypeError(
            f"The loss of objective {name!r} is not a tensor. {received(loss)} A loss "
            "converted to NumPy or to a number has no gradient."
        )
    kind = str(keras.backend.standardize_dtype(loss.dtype))
    if "float" not in kind:
        raise TypeError(
            f"The loss of objective {name!r} is no real floating-point number. Received dtype: "
            f"{kind}. Integers have no gradient: cast what it is made of, not the result. Of a "
            "complex number take keras.ops.real(...) or its absolute value."
        )
    if len(loss.shape) != 0:
        raise ValueError(
            f"The loss of objective {name!r} is not a scalar. Received shape: "
            f"{tuple(loss.shape)}. Reduce it, with keras.ops.mean(...) say, or use a Keras loss "
            'whose `reduction` is not None or "none".'
        )
