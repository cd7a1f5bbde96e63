"""What the calls of layers in a forward pass take: products of numbers, and memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers

from polytape.differentiation.layer_calls import (
    FEW,
    LOOKED_UP,
    USUAL,
    WHOLE,
    Chooses,
    Listening,
    passing,
)
from polytape.engines import Variable

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)


@dataclass(frozen=True)
class LayerSize:
    """A call of a layer that trains variables.

    variables  all that it trains;  noted  whether the call was noted
    products   multiplications of its matrices with what comes in
    positions  examples, times time steps or places;  outputs  numbers that come out
    """

    variables: Sequence[Variable]
    noted: bool
    products: int
    positions: int
    outputs: int

    def compared(self, count: int) -> int:
        """Products that it takes to compare the gradients of so many objectives."""
        if not self.noted:
            return 0
        if self.positions > FEW:
            return count * self.products
        return self.positions * count * self.outputs * (count + 1)


@dataclass
class LayerSizes:
    """Notes the sizes of all calls of layers.

    chooses  those that are noted besides;  batch  the examples, where shapes leave them open
    looped   whether the backward passes of all objectives are one that runs in a loop
    """

    chooses: Chooses | None
    batch: int | None
    looped: bool = False
    found: list[LayerSize] = field(default_factory=list)
    _within: set[int] = field(default_factory=set)  # layers that one calls in a loop

    def __call__(
        self,
        layer: layers.Layer,
        own: Sequence[Variable],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> bool:
        noted = self.chooses is not None and self.chooses(layer, own, args, kwargs)
        if id(layer) in self._within:
            return noted
        trained = list(own)
        if isinstance(layer, WHOLE):
            trained = layer.trainable_variables
            self._within.update(map(id, layer._flatten_layers(include_self=False)))
        if trained:
            self.found.append(self._size(layer, trained, [*args, *kwargs.values()], noted))
        return noted

    def _size(
        self, layer: layers.Layer, trained: Sequence[Variable], given: Sequence[Any], noted: bool
    ) -> LayerSize:
        batch = self.batch or USUAL
        tensors = [x for x in keras.tree.flatten(given) if keras.ops.is_tensor(x)]
        shape = tuple(batch if n is None else n for n in tensors[0].shape) if tensors else (1,)
        outputs = passing(layer, given, batch)
        positions = math.prod(shape[:-1])
        weights = 0
        if not isinstance(layer, LOOKED_UP):
            weights = sum(math.prod(v.shape) for v in trained if len(v.shape) > 1)
        if isinstance(layer, _CONVOLUTIONS):
            last = layer.data_format == "channels_last"
            positions = outputs // layer.compute_output_shape(shape)[-1 if last else 1]
        return LayerSize(trained, noted, weights * positions, positions, outputs)

    @contextmanager
    def anew(self, roots: Sequence[layers.Layer]) -> Iterator[None]:
        """Forget what was found, and listen to these layers and those that they call.

        Where calls are to be noted, it is asked for each of them in any case.
        """
        self.found.clear()
        with nullcontext() if self.chooses else Listening({}, self).attached(roots):
            yield
