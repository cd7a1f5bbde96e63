"""From the arguments of `compile` to settings, checked against the model."""

from collections.abc import Sequence

import keras

from polytape.aggregation import check_measure, check_private
from polytape.aggregation.seeds import peeked
from polytape.catalogue import all_methods, catalogue
from polytape.contract import Method, check_seed, iter_methods
from polytape.contract.types import Anything
from polytape.methods.mean import Mean
from polytape.methods.sum import Sum
from polytape.training.losses.keras_losses import KerasLosses
from polytape.training.losses.objectives import Objectives
from polytape.training.memory import check_memory
from polytape.training.optimizers.assignment import as_optimizers, described
from polytape.training.overrides import loss_mode, reaches_super
from polytape.training.phase import Phase
from polytape.training.plan import Settings, is_plain, never_evaluated

ON_NONFINITE = ("drop", "isolate", "skip", "raise")


def settings_of(
    model: keras.Model,
    *,
    source: KerasLosses | Objectives,
    method: Method,
    phases: Sequence[Phase],
    private: str,
    measure: str,
    on_nonfinite: str,
    seed: int | None,
    verbose: int,
    communication: str,
    memory: str,
    metrics: Sequence[Anything],
) -> Settings:
    """What a `compile` asks for; `ValueError` or `TypeError` where that cannot be."""
    if on_nonfinite not in ON_NONFINITE:
        raise ValueError(
            f"`on_nonfinite` says what to do with a loss or gradient that is not finite: one "
            f"of {ON_NONFINITE}. Received: {on_nonfinite!r}."
        )
    private, checked = check_private(private), check_measure(measure, method)
    overrides = model.overriding("compute_loss")
    tells = verbose > 1 or (verbose == 1 and _has_routes(source, model.optimizer))
    plain = is_plain(method, isinstance(source, Objectives))
    _check_total(source, method, overrides)
    found = Settings(
        method=method,
        source=source,
        phases=tuple(phases) or (Phase("loss"),),
        private=private,
        measure="parameters" if method.needs == "losses" else checked,
        on_nonfinite=on_nonfinite,
        seed=peeked() if seed is None else check_seed(seed),
        tells=tells and isinstance(source, Objectives),
        summarises=verbose > 1,
        optimizers=described(model.optimizer),
        overrides=overrides,
        loss_mode=loss_mode(model, True),
        may_bypass=_may_bypass(model, method, plain and not isinstance(source, Objectives)),
        training={"training": True} if model.takes_training else {},
        communication=communication,
        memory=memory,
        metrics=metrics,
    )
    check_memory(memory, method, found.measure, found.takes_apart)
    return found


def combines(method: Method) -> bool:
    """Whether a method asks how losses compare: stages and sums of one loss do something, too."""
    stages = {*catalogue().values()} - {*all_methods().values()}
    leaves = [part for part in iter_methods(method) if not isinstance(part, (*stages, Sum, Mean))]
    return bool(leaves)


def bypassed(train_step: str, method: Method) -> str:
    """What is wrong with a `train_step` that goes past the losses."""
    return (
        f"{train_step} does not call super().train_step(...), which is where losses are "
        f"combined: {type(method).__name__} would do nothing. Call it there; or leave "
        "train_step alone and give the losses to compile(), with phases=[...] where one is to "
        'follow another; or use combine="sum" with loss=, as plain Keras.'
    )


def _check_total(source: KerasLosses | Objectives, method: Method, overrides: str | None) -> None:
    """Raise if a class overrides so much that the losses would not be combined."""
    if overrides is None:
        return
    if source.empty and combines(method):
        raise ValueError(never_evaluated(overrides, method))
    if any(part.samples for part in iter_methods(method)):
        raise ValueError(
            f"{type(method).__name__} compares the losses of single samples, and "
            f"{overrides} overrides compute_loss, whose total is of the whole batch. "
            "Write what it adds as an objective of its own, or choose another method."
        )


def _may_bypass(model: keras.Model, method: Method, as_keras: bool) -> str:
    """A `train_step` of the user's that has to call super(); ValueError if it cannot.

    as_keras  whether nothing is lost if it does not
    """
    owner = model.overriding("train_step")
    if owner is None or as_keras:
        return ""
    found = f"{owner}.train_step"
    if not reaches_super(model.train_step, "train_step"):
        raise ValueError(bypassed(found, method))
    return found


def _has_routes(source: KerasLosses | Objectives, optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether it was said who trains what."""
    if not isinstance(source, Objectives):
        return False
    declared = any(objective.trains is not None for objective in source.given.values())
    return declared or as_optimizers(optimizer) is not None
