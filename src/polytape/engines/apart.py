"""What an engine that compiles a step has no reason to do at once: calling an operation is free."""

from collections.abc import Sequence

from polytape.engines.contract import Recording, Rows, Tensor


def pulled_back(
    recording: Recording,
    cotangent: Tensor | float,
    scalars: Sequence[int],
    variables: Sequence[Sequence[int]],
) -> list[list[Tensor | None]]:
    return [
        recording.vjp({scalar: cotangent}, own, sparse=True)
        for scalar, own in zip(scalars, variables, strict=True)
    ]


def side_by_side(columns: Sequence[Sequence[Tensor]]) -> list[list[int]]:
    return [[place] for place in range(len(columns))]


def together(columns: Sequence[Sequence[Tensor]]) -> Rows:
    raise RuntimeError(f"Rows of {len(columns)} variables lie by themselves on this backend.")


def split(direction: Tensor, columns: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    raise RuntimeError(f"{direction} is of one variable, and not of {len(columns)}.")
