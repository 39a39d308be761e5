"""The trace norm of a matrix, with the gradient that it has where it is smooth."""

from keras import ops


def trace_norm(matrix, tolerance: float):
    """The sum of the singular values.

    ```
    result   = sum_i sigma[i]
    gradient = U V^T                        # of `matrix = U diag(sigma) V^T`
    ```

    Both come from the smaller of the two Gramians, whose eigenvalues are squares of singular
    values. A gradient through the decomposition itself would be infinite where two are equal.

    Args:
        matrix: Tensor of rank 2.
        tolerance: Singular values below this share of the largest count as 0: in float32 the
            squares of those below 0.001 are noise.
    """

    @ops.custom_gradient
    def norm(x):
        wide = x.shape[0] < x.shape[1]
        gramian = ops.matmul(x, ops.transpose(x)) if wide else ops.matmul(ops.transpose(x), x)
        squares, vectors = ops.eigh(gramian)
        squares = ops.maximum(squares, 0.0)
        kept = squares > tolerance**2 * ops.max(squares)
        sigma = ops.sqrt(ops.where(kept, squares, 1.0))
        inverse_root = ops.matmul(vectors * ops.where(kept, 1 / sigma, 0.0), ops.transpose(vectors))
        direction = ops.matmul(inverse_root, x) if wide else ops.matmul(x, inverse_root)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return upstream * direction

        return ops.sum(ops.where(kept, sigma, 0.0)), gradient

    return norm(ops.convert_to_tensor(matrix))
