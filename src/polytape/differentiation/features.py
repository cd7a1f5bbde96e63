"""The layer that marks where conflict is measured."""

from typing import Any

import keras

from polytape.contract import Tensor
from polytape.engines import mark


@keras.saving.register_keras_serializable(package="polytape")
class Features(keras.layers.Identity):
    """Marks its input as the shared representation, for `measure="features"`; else an identity.

    Place it between trunk and heads: `h = pt.Features()(h)` in a functional model, or made in
    `__init__` and called in `call` of a subclassed one. Several may exist, and one may be called
    several times: the row of an objective is the concatenation of its gradients by all of them.
    Not for a recurrent cell, which is called inside a loop.

    Only what passes a mark is compared. An objective that reaches no mark and shares no variable
    with others has a zero row, as it would have over the parameters; one that shares variables
    around the marks is refused. Private variables have no row here: `private="joint"` gives them
    the combined weight, as "weighted" does.

    Args:
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`

    Example:
        >>> import keras, polytape as pt
        >>> inputs = keras.Input((3,))
        >>> shared = pt.Features()(keras.layers.Dense(4)(inputs))
        >>> heads = {name: keras.layers.Dense(1, name=name)(shared) for name in ("a", "b")}
        >>> model = pt.Model(inputs, heads)
        >>> model.compile("sgd", {"a": "mse", "b": "mae"}, combine="mgda", measure="features")
    """

    def call(self, inputs: Any) -> Any:
        """The inputs, any nest of tensors, marked while a step that measures them is recorded.

        Args:
            inputs: any nest of tensors

        Returns:
            The same tensors.
        """
        return keras.tree.map_structure(lambda tensor: mark(tensor, "features"), inputs)


class Outputs(keras.layers.Identity):
    """Marks what a model returns. A layer, since layers keep the masks of their inputs."""

    def __init__(self) -> None:
        super().__init__(autocast=False)

    def call(self, inputs: Any) -> Any:
        return keras.tree.map_structure(lambda tensor: mark(tensor, "outputs"), inputs)


def marked(outputs: Any) -> Tensor:
    """The outputs of a model, any nest of tensors, marked one by one."""
    layer = Outputs()
    return keras.tree.map_structure(
        lambda leaf: layer(leaf) if keras.ops.is_tensor(leaf) else leaf, outputs
    )
