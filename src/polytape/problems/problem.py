"""What a problem is: a model to build, data to train it on, and how success is measured."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = Any  # one array, or a list or dict of arrays with the same leading length
Data = tuple[Arrays, dict[str, Any], Arrays, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A training task with several objectives, complete enough to be run under any method.

    name           short, used in titles
    description    one sentence
    objectives     T names, the order of every table and picture
    build          () -> (inputs, {objective: output tensor}), as for `keras.Model`; new layers at
                   each call, so that the seed decides the initial weights
    data           () -> (x_train, {objective: targets}, x_val, {objective: targets}), NumPy arrays
                   of equal length; a NaN target means "no label here"
    losses         {objective: anything that `compile(loss=...)` takes}
    metrics        {objective: list of names of Keras metrics}, may be empty
    headline       {objective: (metric, "max" or "min")}: the number that the tables show, taken on
                   the validation data; the metric is one of `metrics` or "loss"
    batch_size     examples per step
    learning_rate  of Adam

    Errors: ValueError that names the field if names do not match.

    >>> from polytape.problems import load
    >>> problem = load("toy")
    >>> problem.objectives
    ('east', 'west', 'north')
    >>> x, y, x_val, y_val = problem.data()
    >>> x.shape, y["west"].shape
    ((256, 2), (256, 1))
    """

    name: str
    description: str
    objectives: tuple[str, ...]
    build: Callable[[], tuple[Any, dict[str, Any]]]
    data: Callable[[], Data]
    losses: dict[str, Any]
    headline: dict[str, tuple[str, str]]
    metrics: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    batch_size: int = 128
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if len(self.objectives) < 2:
            raise ValueError(
                f"Problem({self.name!r}): `objectives` must hold at least two names, there is "
                f"nothing to settle otherwise. Received: {self.objectives!r}."
            )
        for field in ("build", "data"):
            if not callable(getattr(self, field)):
                raise ValueError(
                    f"Problem({self.name!r}): `{field}` must be a function without arguments. "
                    f"Received: {getattr(self, field)!r}. Wrap it: {field}=lambda: ..."
                )
        self.check_names("losses", self.losses)
        self.check_names("headline", self.headline)
        for objective, (metric, goal) in self.headline.items():
            self._check_headline(objective, metric, goal)

    def check_names(self, what: str, found: Any) -> None:
        """Refuse a dictionary whose keys are not exactly the objectives."""
        keys = set(found) if isinstance(found, dict) else None
        if keys != set(self.objectives):
            received = sorted(keys, key=str) if keys is not None else type(found).__name__
            raise ValueError(
                f"Problem({self.name!r}): `{what}` must be a dictionary with one entry for each of "
                f"the objectives {list(self.objectives)}. Received: {received}."
            )

    def _check_headline(self, objective: str, metric: str, goal: str) -> None:
        known = ["loss", *self.metrics.get(objective, [])]
        if metric not in known or goal not in ("max", "min"):
            raise ValueError(
                f"Problem({self.name!r}): headline[{objective!r}] must be (metric, goal) with a "
                f"metric among {known} and the goal 'max' or 'min'. Received: {(metric, goal)!r}. "
                "Add the metric to `metrics` if it is missing there."
            )

    def headline_key(self, objective: str) -> str:
        """The key of the objective's headline number in a Keras history."""
        return f"val_{objective}_{self.headline[objective][0]}"

    def load_data(self) -> Data:
        """The data, checked: four parts, one target array an objective, equal lengths.

        Errors: ValueError that names the part.
        """
        try:
            parts = self.data()
        except Exception as error:
            raise ValueError(
                f"Problem({self.name!r}): `data()` failed with {type(error).__name__}: {error}"
            ) from error
        if not isinstance(parts, tuple) or len(parts) != 4:
            raise ValueError(
                f"Problem({self.name!r}): `data()` must return (x_train, y_train, x_val, y_val). "
                f"Received: {type(parts).__name__}"
                + (f" of {len(parts)} parts." if isinstance(parts, tuple) else ".")
            )
        for part, x, y in (("train", parts[0], parts[1]), ("val", parts[2], parts[3])):
            self.check_names(f"data() y_{part}", y)
            lengths = {name: len(targets) for name, targets in y.items()}
            if len({count(x), *lengths.values()}) != 1:
                raise ValueError(
                    f"Problem({self.name!r}): x_{part} has {count(x)} examples, but the targets "
                    f"have {lengths}. Every objective needs one target an example; write NaN "
                    "where there is no label."
                )
        return parts


def count(x: Arrays) -> int:
    """Number of examples in an array, or in the first of several."""
    while isinstance(x, (dict, list, tuple)):
        x = next(iter(x.values() if isinstance(x, dict) else x))
    return len(np.asarray(x))
