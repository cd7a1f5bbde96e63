"""A plain Keras model of what a `pt.Model` computes, with the same layers."""

from collections.abc import Callable

import keras

from polytape.contract.types import Anything, Nest
from polytape.differentiation.features import Features


class Seen:
    """The inputs of a model as they have come so far: a nest of `keras.KerasTensor`, or None.

    Plain, so that Keras does not look for layers in it.
    """

    def __init__(self) -> None:
        self.inputs: Nest = None
        self._paths: list[Anything] = []

    def note(self, inputs: Nest) -> None:
        """Take account of the inputs of a call: a size that varies is None."""
        now = keras.tree.flatten_with_path(inputs)
        if self.inputs is None or self._paths != [path for path, _ in now]:
            self.inputs = keras.tree.map_structure(_like, inputs)
            self._paths = [path for path, _ in now]
        elif any(_differs(seen, leaf) for seen, (_, leaf) in zip(self._flat(), now, strict=True)):
            self.inputs = keras.tree.map_structure(_common, self.inputs, inputs)

    def _flat(self) -> list[Anything]:
        return list(keras.tree.flatten(self.inputs))

    def traced(self, call: Callable[[Anything], Anything], name: str) -> keras.Model:
        """A functional model of what `call` does with such inputs."""
        if self.inputs is None:
            raise ValueError(
                f"The model {name!r} was never called, so the shapes of its inputs are not known. "
                "Call it once on a batch, model(x), or train it."
            )
        found = keras.tree.flatten_with_path(self.inputs)
        flat = [
            None
            if tensor is None
            else keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=_name(path))
            for path, tensor in found
        ]
        inputs = keras.tree.pack_sequence_as(self.inputs, flat)
        try:
            return keras.Model(inputs, call(inputs), name=name)
        except Exception as error:
            raise ValueError(
                "`forward` cannot become a plain Keras model: called on symbolic inputs it raised "
                f"{type(error).__name__}: {error} It must be made of layers and keras.ops. "
                "To serve it as it is: model.export(path, input_signature=...)."
            ) from error


def without_features(model: keras.Model) -> keras.Model:
    """The model itself or, if it has `Features` layers, one of the same layers without them."""
    if not any(isinstance(layer, Features) for layer in _layers(model)):
        return model
    return keras.models.clone_model(model, clone_function=_plain, recursive=True)


def _layers(model: keras.Model) -> list[Anything]:
    """All layers within a model, those of models in it, too."""
    held = model.layers if isinstance(model, keras.Model) else ()
    return [inner for layer in held for inner in (layer, *_layers(layer))]


def _plain(layer: keras.layers.Layer) -> Anything:
    if isinstance(layer, Features):
        return keras.layers.Identity(name=layer.name)
    return layer


def _like(tensor: Anything) -> keras.KerasTensor | None:
    if tensor is None:  # an optional input
        return None
    shape = (None, *tuple(tensor.shape)[1:])
    return keras.KerasTensor(shape, keras.backend.standardize_dtype(tensor.dtype))


def _differs(seen: keras.KerasTensor | None, tensor: Anything) -> bool:
    if seen is None or tensor is None:
        return seen is not tensor
    sizes = zip(seen.shape[1:], tuple(tensor.shape)[1:], strict=True)
    return any(size is not None and size != other for size, other in sizes)


def _common(seen: keras.KerasTensor | None, tensor: Anything) -> keras.KerasTensor | None:
    if seen is None or tensor is None:
        return _like(tensor) if seen is None else seen
    sizes = zip(seen.shape, tuple(tensor.shape), strict=True)
    shape = tuple(size if size == other else None for size, other in sizes)
    return keras.KerasTensor(shape, seen.dtype)


def _name(path: tuple[Anything, ...]) -> str | None:
    return str(path[-1]) if path else None
