"""Linear complementarity problems, which the small quadratic programs of the rules are."""

from keras import ops


def solve_complementarity(matrix, q):
    """The `y >= 0` with `w = matrix @ y + q >= 0` and `y . w = 0`, for each row of `q`.

    It is the solution of `min 0.5 * y . matrix @ y + q . y` over `y >= 0`.

    Args:
        matrix: `(T, T)`, symmetric and positive definite.
        q: `(K, T)`.

    Returns:
        `(K, T)`.
    """
    # From q + mu * (a positive vector) with a large mu, solved by y = 0, down to mu = 0. The
    # vector's entries differ so that no two tasks reach zero at once.
    n = q.shape[-1]
    direction = ops.broadcast_to(1.0 + 0.618 * ops.arange(n, dtype=q.dtype) / n, ops.shape(q))
    tableau, basic = follow_path(matrix, q, direction)
    return ops.where(basic, ops.maximum(tableau[..., -2], 0.0), 0.0)


def follow_path(matrix, q, direction, reached=None):
    """Solves `w = matrix @ y + q + mu * direction` for `mu` from infinity down to 0.

    One principal pivot after another: as `mu` falls, an entry of the solution reaches zero,
    and `y` and `w` change places there.

    Args:
        matrix: `(T, T)`, symmetric and positive definite.
        q: `(K, T)`.
        direction: `(K, T)`, positive.
        reached: `(next mu, tableau, basic) -> (K,)`, true where to stop before the next pivot.
            Defaults to `None`: at `mu <= 0`.

    Returns:
        `(tableau, basic)`. `basic`, `(K, T)`, says where `y` is not zero; there `y = s + mu * c`
        with `s = tableau[..., -2]` and `c = tableau[..., -1]`.

    Reference: R. Cottle, J.-S. Pang, R. Stone (1992), "The Linear Complementarity Problem",
    section 4.5, parametric principal pivoting.
    """
    k, n = q.shape
    stop = reached or (lambda mu, tableau, basic: mu <= 0.0)
    tableau = ops.concatenate(
        [ops.broadcast_to(matrix, (k, n, n)), q[..., None], direction[..., None]], axis=-1
    )
    columns, rows = ops.arange(n + 2), ops.arange(n)

    def next_pivot(tableau, basic):
        s, c = tableau[..., -2], tableau[..., -1]
        falling = c > 0.0
        mu = ops.where(falling, -s / ops.where(falling, c, 1.0), -float("inf"))
        mu_next, index = ops.max(mu, axis=-1), ops.argmax(mu, axis=-1)
        return index, ops.isinf(mu_next) | stop(mu_next, tableau, basic)

    def body(tableau, basic, index, done):
        row = ops.take_along_axis(tableau, index[:, None, None], axis=1)[:, 0]
        column = ops.take_along_axis(tableau, index[:, None, None], axis=2)[..., 0]
        pivot = ops.take_along_axis(column, index[:, None], axis=1)
        chosen, here = rows[None] == index[:, None], columns[None] == index[:, None]
        new_row = ops.where(here, 1.0, -row) / pivot
        swept = ops.where(here[:, None], 0.0, tableau) + column[..., None] * new_row[:, None]
        swept = ops.where(chosen[..., None], new_row[:, None], swept)
        tableau = ops.where(done[:, None, None], tableau, swept)
        basic = ops.where(done[:, None], basic, ops.logical_xor(basic, chosen))
        return (tableau, basic, *next_pivot(tableau, basic))

    basic = ops.zeros((k, n), dtype="bool")
    state = (tableau, basic, *next_pivot(tableau, basic))
    # About n pivots are usual. The bound is for rounding errors that make it go in circles.
    tableau, basic, _, _ = ops.while_loop(
        lambda tableau, basic, index, done: ops.logical_not(ops.all(done)),
        body,
        state,
        maximum_iterations=4 * n,
    )
    return tableau, basic
