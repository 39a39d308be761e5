"""LAF, Tucker and tensor-train factorisations of a stack of kernels, task axis last.

A stack of shape `(D_1, ..., D_N)`, with `D_N` tasks, is the product of factors:

```
laf     L (D_1, ..., D_{N-1}, K), S (K, D_N)
tucker  core (K_1, ..., K_N), then U_n (D_n, K_n) for n = 1 ... N
tt      U_1 (D_1, K_1), U_n (K_{n-1}, D_n, K_n) for n = 2 ... N-1, U_N (K_{N-1}, D_N)
```

Only the last factor knows the tasks. NumPy arrays stay NumPy arrays with their dtype; other
tensors go through `keras.ops`. Decomposition is for NumPy alone: once, in float64, at the
start, for the derivative of an SVD is infinite where singular values coincide.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

METHODS = ("laf", "tucker", "tt")
Tensor = Any  # a NumPy array or a backend's tensor


def unfold(tensor: Tensor, mode: int) -> Tensor:
    """The mode-n unfolding: axis `mode` first, the others flattened in C order."""
    xp = _library(tensor)
    return xp.reshape(xp.moveaxis(tensor, mode, 0), (tensor.shape[mode], -1))


def fold(matrix: Tensor, mode: int, shape: Sequence[int]) -> Tensor:
    """The tensor of shape `shape` whose `unfold(..., mode)` is `matrix`."""
    xp = _library(matrix)
    first = (shape[mode], *shape[:mode], *shape[mode:][1:])
    return xp.moveaxis(xp.reshape(matrix, first), 0, mode)


def num_ranks(method: str, order: int) -> int:
    """How many ranks a stack with `order` axes has."""
    return {"laf": 1, "tucker": order, "tt": order - 1}[method]


def max_ranks(shape: Sequence[int], method: str) -> tuple[int, ...]:
    """The smallest ranks at which every stack of this shape is reached exactly."""
    size = math.prod(shape)
    if method == "tucker":
        return tuple(min(d, size // d) for d in shape)
    cuts = [len(shape) - 1] if method == "laf" else range(1, len(shape))
    return tuple(min(math.prod(shape[:n]), math.prod(shape[n:])) for n in cuts)


def resolve_ranks(
    rank: int | Sequence[int] | None, shape: Sequence[int], method: str
) -> tuple[int, ...]:
    """The ranks to use: `rank`, clipped with a warning to what adds expressive power.

    Args:
        rank: One rank for each cut or mode. An integer r stands for `min(r, maximum)` in each
            of them. None: a little more than half of the maximum, `maximum // 2 + 1`, where
            plain halves would give two tasks kernels that are multiples of one another.
        shape: Shape of the stack.
        method: "laf", "tucker" or "tt".
    """
    largest = max_ranks(shape, method)
    if rank is None:
        return tuple(limit // 2 + 1 for limit in largest)
    wanted = (rank,) * len(largest) if isinstance(rank, int) else tuple(rank)
    ranks = []
    for n, (r, limit) in enumerate(zip(wanted, largest, strict=True)):
        if method == "tt" and n:  # a small rank bounds the next one
            limit = min(limit, ranks[-1] * shape[n])
        ranks.append(min(r, limit))
    clipped = [r > used for r, used in zip(wanted, ranks, strict=True)]
    if all(clipped) if isinstance(rank, int) else any(clipped):
        warnings.warn(
            f"`rank` is above the maximum {largest} of a stack of shape {tuple(shape)} with "
            f"method={method!r}; {tuple(ranks)} is used. Received: rank={rank}",
            stacklevel=2,
        )
    return tuple(ranks)


def factor_shapes(shape: Sequence[int], method: str, ranks: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of the factors, in the order of the table above."""
    if method == "laf":
        return [(*shape[:-1], *ranks), (*ranks, shape[-1])]
    if method == "tucker":
        return [tuple(ranks), *zip(shape, ranks, strict=True)]
    middle = zip(ranks, shape[1:], ranks[1:], strict=False)
    return [(shape[0], ranks[0]), *middle, (ranks[-1], shape[-1])]


def ranks_of(factors: Sequence[Tensor], method: str) -> tuple[int, ...]:
    """The ranks that `factors` were made with."""
    if method == "tucker":
        return tuple(factors[0].shape)
    return tuple(factor.shape[-1] for factor in factors[:-1])


def random_stddev(stddev: float, method: str, order: int, ranks: Sequence[int]) -> float:
    """Standard deviation of every factor such that the stack's entries have `stddev`.

    An entry of the stack is a sum of prod(ranks) products of one entry from each factor, so
    `stddev = s ** factors * sqrt(prod(ranks))` for independent entries of mean zero.
    """
    factors = {"laf": 2, "tucker": order + 1, "tt": order}[method]
    return (stddev / math.sqrt(math.prod(ranks))) ** (1.0 / factors)


def decompose(
    stack: np.ndarray,
    method: str,
    ranks: Sequence[int] | None = None,
    rel_error: float = 0.1,
) -> list[np.ndarray]:
    """Factors of `stack` in float64: SVD (laf), HOSVD (tucker) or TT-SVD (tt).

    Args:
        stack: The stack, task axis last.
        method: "laf", "tucker" or "tt".
        ranks: Ranks within `resolve_ranks`. None: the smallest at which
            `||stack - synthesize(factors)|| <= rel_error * ||stack||` is sure (Frobenius
            norms); the squared error is shared equally by the singular value decompositions.
        rel_error: Only used without `ranks`.
    """
    stack = np.asarray(stack, np.float64)
    count = num_ranks(method, stack.ndim)
    tolerance = rel_error * np.linalg.norm(stack) / math.sqrt(count)
    ranks = [None] * count if ranks is None else ranks
    if method == "tucker":
        bases = [
            _truncated_svd(unfold(stack, mode), ranks[mode], tolerance)[0]
            for mode in range(stack.ndim)
        ]
        core = stack
        for mode, basis in enumerate(bases):
            shape = (*core.shape[:mode], basis.shape[1], *core.shape[mode + 1 :])
            core = fold(basis.T @ unfold(core, mode), mode, shape)
        return [core, *bases]
    # LAF is the tensor train of the stack flattened to a matrix.
    sizes = stack.shape if method == "tt" else (math.prod(stack.shape[:-1]), stack.shape[-1])
    factors, left, rest = [], 1, stack
    for size, rank in zip(sizes[:-1], ranks, strict=True):
        basis, rest = _truncated_svd(rest.reshape(left * size, -1), rank, tolerance)
        factors.append(basis.reshape(left, size, -1))
        left = basis.shape[1]
    factors[0] = factors[0].reshape(*(sizes[:1] if method == "tt" else stack.shape[:-1]), -1)
    return [*factors, rest]


def synthesize(factors: Sequence[Tensor], method: str) -> Tensor:
    """The stack that the factors stand for; differentiable."""
    xp = _library(factors[0])
    stack, *others = factors
    for factor in others:
        # Tucker: each contraction takes the first axis away and appends its own at the end.
        axes = [[0], [1]] if method == "tucker" else 1
        stack = xp.tensordot(stack, factor, axes=axes)
    return stack


def _truncated_svd(matrix, rank, tolerance):
    """`(U, diag(s) V^T)`, cut to `rank` or to an error of at most `tolerance`."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    if rank is None:
        # error[k] = norm of what is lost if k singular values are kept
        error = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0.0))
        rank = max(int(np.argmax(error <= tolerance)), 1)
    return u[:, :rank], s[:rank, None] * vt[:rank]


def _library(tensor):
    return np if isinstance(tensor, np.ndarray) else ops
