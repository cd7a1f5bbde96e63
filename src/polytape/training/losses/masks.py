"""The masks that Keras attaches to outputs (`Masking`, `Embedding(mask_zero=True)`)."""

import keras

from polytape.contract import Tensor
from polytape.contract.types import Anything, Nest


def mask_of(tensor: Anything) -> Tensor | None:
    """The mask of one output, or None."""
    found = getattr(tensor, "_keras_mask", None)
    if found is None and keras.backend.backend() == "jax":  # whose tracers take no attributes
        reader = _Reader()
        reader(tensor)
        found = reader.found
    return found


def masks_of(outputs: Nest) -> list[Tensor | None]:
    """The masks of all outputs, in the order in which Keras flattens them."""
    return [mask_of(leaf) for leaf in keras.tree.flatten(outputs)]


def carry(masks: list[Tensor | None], outputs: Nest) -> None:
    """Attach masks to outputs that have lost them: on JAX those of a function that is linearized.

    Keras's own metrics lose them there in training.
    """
    for mask, leaf in zip(masks, keras.tree.flatten(outputs), strict=True):
        if mask is not None and mask_of(leaf) is None:
            _Carrier(mask)(leaf)


class _Reader(keras.layers.Layer):
    """Is told the mask of its input."""

    def __init__(self) -> None:
        super().__init__(autocast=False, dtype="float32", name="reader")
        self.built = self.supports_masking = True
        self.found: Tensor | None = None

    def call(self, inputs: Nest, mask: Nest = None) -> Nest:
        self.found = mask
        return inputs


class _Carrier(keras.layers.Layer):
    """Attaches a mask to its input, which it returns as it is."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(autocast=False, dtype="float32", name="carrier")
        self.built = self.supports_masking = True
        self._mask = mask

    def call(self, inputs: Nest) -> Nest:
        return inputs

    def compute_mask(self, inputs: Nest, previous_mask: Anything = None) -> Anything:
        del inputs, previous_mask
        return self._mask
