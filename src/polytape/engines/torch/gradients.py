"""The gradients of several objectives by one variable."""

from collections.abc import Sequence

import torch

from polytape.engines.contract import Tensor


class _Rows:
    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._shape, self._dtype = gradients[0].shape, gradients[0].dtype
        self._matrix = torch.stack([g.reshape(-1).to(_precision(g)) for g in gradients])

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        matrix = self._kept(kept)
        matrix = matrix if mixed is None else mixed.to(matrix.dtype) @ matrix
        return (matrix @ matrix.T).to(torch.float32)

    def _kept(self, kept: Tensor | None) -> Tensor:
        if kept is None:
            return self._matrix
        return torch.where(kept[:, None], self._matrix, torch.zeros_like(self._matrix))

    def squares(self) -> list[Tensor]:
        return [torch.dot(row, row).to(torch.float32) for row in self._matrix]

    def matrix(self) -> Tensor:
        return self._matrix.to(torch.float32)

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        return self.unflatten(weights.to(self._matrix.dtype) @ self._kept(kept))

    def unflatten(self, flat: Tensor) -> Tensor:
        return flat.reshape(self._shape).to(self._dtype)


def _precision(gradient: Tensor) -> torch.dtype:
    return torch.float64 if gradient.dtype == torch.float64 else torch.float32


def rows(gradients: Sequence[Tensor]) -> _Rows:
    return _Rows(gradients)


def has_value(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and not torch.compiler.is_compiling()


def dense(gradient: Tensor) -> Tensor:
    return gradient.to(torch.float32)


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    return total + torch.where(condition, gradient, torch.zeros_like(gradient))


def zeros_like(gradient: Tensor) -> Tensor:
    return torch.zeros_like(gradient)


def finite(gradients: Sequence[Tensor]) -> Tensor:
    sums = [gradient.sum(dtype=torch.float32) for gradient in gradients]
    return torch.isfinite(torch.stack(sums)).all()


def in_range(
    gradients: Sequence[Tensor], values: Sequence[Tensor] = (), exact: bool = False
) -> Tensor:
    del exact  # it always is
    norms = [_norm(gradient) for gradient in gradients]
    sums = [0.0 * value.sum(dtype=torch.float32) for value in values]  # zero if finite, else NaN
    return torch.isfinite(torch.stack([*norms, *sums]).square().sum())


def _norm(gradient: Tensor) -> Tensor:
    if gradient.dtype == torch.float64:
        return torch.linalg.vector_norm(gradient).to(torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=torch.float32)


def stack(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(scalars))
