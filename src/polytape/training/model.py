"""`polytape.Model`: a Keras model whose `compile` takes some arguments more."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

import keras

from polytape.contract import did_you_mean
from polytape.contract.types import Anything, Config, Mode, Nest
from polytape.engines import check_distribution, check_native, engine
from polytape.training.functional import plain_functional
from polytape.training.loadable import warn_of_lost
from polytape.training.networks import bare, check_networks, refuse_shared
from polytape.training.overrides import loss_mode, overriding, refuse_unreached, seen_from
from polytape.training.saving import MethodState
from polytape.training.serving import Seen, without_features
from polytape.training.trainer import Trainer


class Made:
    """Which class `Model(...)` makes; not in it, as tools read `__new__` before `__init__`."""

    def __new__(cls, *args: Anything, **kwargs: Anything) -> "Made":
        if cls is not Model:
            return super().__new__(cls)
        functional = _is_functional(args, kwargs)
        if kwargs.get("networks") is None:
            return super().__new__(FunctionalModel if functional else Model)
        if functional:
            _check_form(Model, dict.fromkeys(("inputs", "outputs", "networks")))
        return super().__new__(Networks)


@keras.saving.register_keras_serializable(package="polytape")
class Model(Trainer, Made, keras.Model):
    """A Keras model trained on several losses.

    Use it as `keras.Model`: functionally, `pt.Model(inputs, outputs)`, by subclassing, or around an
    existing model with `pt.Model.wrap(model)`. `compile(..., combine=)` says how the gradients of
    the losses are settled; everything else is Keras.

    Example:
        >>> import keras, numpy as np, polytape as pt
        >>> inputs = keras.Input((3,))
        >>> hidden = keras.layers.Dense(4, activation="tanh")(inputs)
        >>> heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in ("a", "b")}
        >>> model = pt.Model(inputs, heads)
        >>> model.compile("adam", loss={"a": "mse", "b": "mae"}, combine="upgrad")
        >>> x, y = np.ones((8, 3)), np.ones((8, 1))
        >>> history = model.fit(x, {"a": y, "b": y}, verbose=0)
        >>> sorted(history.history)
        ['a_loss', 'b_loss', 'loss']
    """

    def __init__(
        self,
        inputs: Nest = None,
        outputs: Nest = None,
        *,
        networks: Mapping[str, keras.layers.Layer] | None = None,
        forward: Callable[[Mapping[str, Anything], Anything], Anything] | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Anything = None,
        autocast: bool = True,
        activity_regularizer: Anything = None,
    ) -> None:
        """Of `inputs` and `outputs`, functionally; of `networks`; or, in a subclass, of neither.

        Args:
            inputs: any nest of Keras tensors, as of a functional `keras.Model`
            outputs: any nest of Keras tensors, as of a functional `keras.Model`
            networks: {name: Keras model or layer}
            forward: function of `networks` and the inputs, which returns any nest of tensors. None
                calls every network: on its own entry of the inputs if these are a dict with the
                networks' names, else on all of them
            name: of the model
            trainable: False freezes all of it
            dtype: as of `keras.Model`; a functional model takes none of them
            autocast: as of `keras.Model`; a functional model takes none of them
            activity_regularizer: as of `keras.Model`; a functional model takes none of them

        Raises:
            TypeError: For arguments that do not go together.
            ValueError: For networks that are no Keras models or layers.
        """
        given = {"inputs": inputs, "outputs": outputs, "networks": networks, "forward": forward}
        given = {argument: value for argument, value in given.items() if value is not None}
        if set(given) == {"inputs", "outputs"}:
            _make_functional(type(self))
            FunctionalModel.__init__(self, inputs, outputs, name=name, trainable=trainable)
            return
        _check_form(type(self), given)
        super().__init__(
            name=name,
            trainable=trainable,
            dtype=dtype,
            autocast=autocast,
            activity_regularizer=activity_regularizer,
        )
        self.method_state = MethodState()

    @classmethod
    def from_config(cls, config: Config, custom_objects: Anything = None) -> "Model":
        if cls.__init__ is Model.__init__ and set(config) >= {"layers", "input_layers"}:
            if cls is Model:
                return FunctionalModel.from_config(config, custom_objects)
            _make_functional(cls)  # from whose signature Keras knows what it is
        return super().from_config(config, custom_objects)

    @classmethod
    def wrap(cls, model: keras.Model) -> "Model":
        """A `polytape.Model` around an existing model: same layers, same variables.

        A functional or Sequential model with known inputs is taken over layer by layer; any other
        is called as it is. Training one trains the other. Where its class overrides `call`,
        `compute_loss`, `compute_metrics` or `metrics`, these are asked, and `super()` in them is
        the wrapping model's; what it was compiled with does not count.

        Args:
            model: any Keras model

        Returns:
            A model with the same layers and variables.

        Raises:
            TypeError: For what is no Keras model, and for one whose class overrides what could not
                be asked, as `train_step`: derive that class from `polytape.Model` instead.
        """
        model = engine().unwrapped(model)
        if not isinstance(model, keras.Model):
            check_distribution("pt.Model.wrap", model)
            check_native("pt.Model.wrap takes a Keras model, and this is", model)
            ours = isinstance(model, keras.layers.Layer)
            if not ours and engine().parameters(model) is not None:
                raise TypeError(
                    f"pt.Model.wrap takes a Keras model, and {type(model).__name__} is a module of "
                    f"{keras.backend.backend()}. Keras's fit needs a Keras model. Train the module "
                    "in a loop of your own, with its own optimizer: grads = "
                    'pt.gradients(losses, module), update = grads.combine("upgrad") and, on '
                    "PyTorch, `p.grad = u` for each parameter and update."
                )
            raise TypeError(
                f"pt.Model.wrap takes a Keras model. Received: {model!r} of type "
                f"{type(model).__name__}."
            )
        if type(model) is plain_functional():
            return cls(model.input, model.output, name=model.name)
        if type(model) is keras.Sequential and model.built and model.inputs:
            return cls(model.inputs, model.outputs, name=model.name)
        return Wrapped(model)

    def to_keras(self) -> keras.Model:
        """A plain Keras model with the same layers and variables, for serving.

        What it saves is loaded without polytape; training one trains the other. A functional model
        stays functional, `pt.Model.wrap` gives back the model that it wraps, and `networks=`
        becomes a functional model of what `forward` does, for inputs of the shapes that it has
        seen. `pt.Features` layers become identities.

        Returns:
            A `keras.Model`, functional where that can be.

        Raises:
            ValueError: For a subclass with a `call` of its own, for networks that were never
                called, and for a `forward` that is not made of layers and `keras.ops`.

        Example:
            >>> import keras, polytape as pt
            >>> inputs = keras.Input((3,))
            >>> heads = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
            >>> plain = pt.Model(inputs, heads).to_keras()
            >>> isinstance(plain, pt.Model), sorted(plain.output)
            (False, ['a', 'b'])
        """
        raise ValueError(
            f"{type(self).__name__} has a `call` of its own, which no plain model can hold. Derive "
            "it from keras.Model and train it with pt.Model.wrap(model): then the model itself is "
            "the plain one."
        )


@keras.saving.register_keras_serializable(package="polytape")
class Wrapped(Model):
    """Another model, called as it is."""

    def __init__(self, network: keras.Model, **kwargs: Anything) -> None:
        super().__init__(**kwargs)
        refuse_unreached(network)
        self.network = network
        self.built = network.built

    def overriding(self, name: str) -> str | None:
        return super().overriding(name) or overriding(self.network, name)

    def called(self) -> keras.Model:
        return self.network

    @property
    def takes_training(self) -> bool:
        return "training" in inspect.signature(self.network.call).parameters

    def compute_loss(
        self,
        x: Nest = None,
        y: Nest = None,
        y_pred: Nest = None,
        sample_weight: Nest = None,
        training: bool = True,
    ) -> Anything:
        if overriding(self.network, "compute_loss") is None:
            return self.own_loss(x, y, y_pred, sample_weight, training)
        seen, mode = seen_from(self, self.network), loss_mode(self.network, training)
        return seen.compute_loss(x, y, y_pred, sample_weight, **mode)

    def compute_metrics(self, x: Nest, y: Nest, y_pred: Nest, sample_weight: Nest = None) -> Nest:
        if overriding(self.network, "compute_metrics") is None:
            return self.update_metrics(x, y, y_pred, sample_weight)
        seen = seen_from(self, self.network)
        return seen.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        if overriding(self.network, "metrics") is None:
            return self.own_metrics
        return seen_from(self, self.network).metrics

    def own_loss(self, *args: Anything) -> Nest:
        """The loss but for what the network's class makes of it."""
        return super().compute_loss(*args)

    def update_metrics(self, *args: Anything) -> Nest:
        """`compute_metrics` but for what the network's class makes of it."""
        return super().compute_metrics(*args)

    @property
    def own_metrics(self) -> list[keras.metrics.Metric]:
        """Those of this model and those that the network has as attributes."""
        found = super().metrics
        known = set(map(id, found))
        of_network = keras.layers.Layer.metrics.fget(self.network)  # without what it compiled
        return [*found, *(metric for metric in of_network if id(metric) not in known)]

    def build(self, input_shape: Anything) -> None:
        if not self.network.built:
            self.network.build(input_shape)
        self.built = True

    def call(self, inputs: Nest, training: Mode = None) -> Nest:
        return self.network(inputs, training=training)

    def to_keras(self) -> keras.Model:
        return without_features(self.network)

    def get_config(self) -> Config:
        return {"network": keras.saving.serialize_keras_object(self.network), "name": self.name}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Anything = None) -> "Wrapped":
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        return cls(network, name=config["name"])


@keras.saving.register_keras_serializable(package="polytape")
class Networks(Model):
    """Several networks and the forward pass that joins them."""

    def __init__(
        self,
        networks: Mapping[str, keras.layers.Layer],
        forward: Callable[[Mapping[str, Anything], Anything], Anything] | None = None,
        **kwargs: Anything,
    ) -> None:
        super().__init__(**kwargs)
        networks = bare(networks)
        check_networks(networks, forward)
        self.networks = dict(networks)
        self.joined = forward
        self.built = all(network.built for network in networks.values())
        self.method_state.of_networks(list(self.networks))
        self._seen = Seen()

    def call(self, inputs: Nest, training: Mode = None) -> Nest:
        del training  # asked for so that Keras hands it on to the layers of the networks
        self._seen.note(inputs)
        if self.joined is not None:
            return self.joined(self.networks, inputs)
        if isinstance(inputs, Mapping) and set(self.networks) <= set(inputs):
            return {name: network(inputs[name]) for name, network in self.networks.items()}
        return {name: network(inputs) for name, network in self.networks.items()}

    def to_keras(self) -> keras.Model:
        return without_features(self._seen.traced(self.call, self.name))

    def export(self, filepath: Anything, *args: Anything, **kwargs: Anything) -> None:
        """As in Keras, of the plain model, unless an `input_signature` is given."""
        if kwargs.get("input_signature") is None:
            self.to_keras().export(filepath, *args, **kwargs)
        else:
            super().export(filepath, *args, **kwargs)

    @property
    def columns(self) -> Mapping[str, keras.layers.Layer]:
        """The networks of the routing table."""
        return MappingProxyType(self.networks)

    def get_config(self) -> Config:
        refuse_shared(self.networks)
        warn_of_lost({"`forward`": self.joined})
        serialize = keras.saving.serialize_keras_object
        networks = {name: serialize(network) for name, network in self.networks.items()}
        forward, inputs = serialize(self.joined), serialize(self._seen.inputs)
        return {"networks": networks, "forward": forward, "inputs": inputs, "name": self.name}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Anything = None) -> "Networks":
        def deserialize(item: Anything) -> Anything:
            return keras.saving.deserialize_keras_object(item, custom_objects)

        networks = {name: deserialize(item) for name, item in config["networks"].items()}
        model = cls(networks, deserialize(config["forward"]), name=config["name"])
        model._seen.inputs = deserialize(config.get("inputs"))
        return model


@keras.saving.register_keras_serializable(package="polytape")
class FunctionalModel(Model, plain_functional()):  # type: ignore[misc]
    """`Model` for functional use.

    Keras rewrites the bases of a class on its first functional use, after which it cannot be
    subclassed in the ordinary way. A class of its own keeps `Model` as it is.
    """

    # This signature is the one by which every version of Keras knows a functional model.
    def __init__(self, *args: Anything, **kwargs: Anything) -> None:
        for argument in set(kwargs) - {"inputs", "outputs", "name", "trainable"}:
            raise TypeError(_no_argument(type(self), argument))
        plain_functional().__init__(self, *args, **kwargs)
        self.method_state = MethodState()
        if self.method_state not in self._layers:  # before 3.15 Keras has its own list
            self._layers.append(self.method_state)

    def to_keras(self) -> keras.Model:
        return without_features(keras.Model(self.input, self.output, name=self.name))


def _is_functional(args: tuple[Anything, ...], kwargs: dict[str, Anything]) -> bool:
    return len(args) == 2 or {"inputs", "outputs"} <= {*kwargs, *("inputs",)[: len(args)]}


def _check_form(cls: type, given: Mapping[str, Anything]) -> None:
    """Raise TypeError for arguments that make neither a functional model nor one of networks."""
    if not given:
        return
    if cls is not Model and {"networks", "forward"} & set(given):
        raise TypeError(
            f"networks= is of pt.Model itself, and {cls.__name__} is a subclass: keep the networks "
            "as attributes, made in its __init__, and join them in its `call`."
        )
    raise TypeError(
        f"{cls.__name__}(...) takes `inputs` and `outputs`, a functional model, or `networks`, "
        f"with or without `forward`. Received: {', '.join(given)}."
    )


def _no_argument(cls: type, argument: str) -> str:
    known = ("inputs", "outputs", "name", "trainable")
    text = f"A functional {cls.__name__} has no argument {argument!r}."
    if argument in inspect.signature(Trainer.compile).parameters:
        return f"{text} It is one of `compile`: model.compile({argument}=...)."
    return f"{text}{did_you_mean(argument, known)} It takes {', '.join(known)}."


def _make_functional(cls: type) -> None:
    """Put the functional class in place of `Model` among the bases of a user's class."""
    if not issubclass(cls, FunctionalModel):
        for base in cls.__bases__:
            if base is not Model and issubclass(base, Model):
                _make_functional(base)
        cls.__bases__ = tuple(FunctionalModel if b is Model else b for b in cls.__bases__)
