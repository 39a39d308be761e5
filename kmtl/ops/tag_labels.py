"""Labels of sequences: a tag for each step, then padding."""

import math

from keras import ops

from kmtl.ops.labels import split_missing


def check_missing(missing: float) -> None:
    """Raises ValueError for a marker that a tag could be mistaken for."""
    number = isinstance(missing, (int, float)) and not isinstance(missing, bool)
    if not number or missing >= 0 and missing == int(missing):
        raise ValueError(
            "`missing` must be NaN or a number that is no tag, such as -1. "
            f"Received: missing={missing}"
        )


def read_tags(y_true, y_pred, missing: float):
    """Separates a CRF's labels from their padding.

    A compiled step cannot stop at a wrong label; it learns from the returned `valid`.

    Args:
        y_true: `(batch, steps)`: tags from 0 to `tags - 1`, then `missing` to the end of the row.
        y_pred: Outputs of a CRF, `(batch, steps + tags + 2, tags)`.
        missing: The value that marks a step without label.

    Returns:
        `(tags, lengths, valid)`: `(batch, steps)` of int32, 0 where there is none; how many
        labels each row has, `(batch,)` of int32; and whether its labels are as said above,
        `(batch,)`.

    Raises:
        ValueError: for other shapes; and, where values are known, for labels that are no tags
            and for labels after padding.
    """
    labels = ops.convert_to_tensor(y_true)
    num_tags = y_pred.shape[-1]
    if len(labels.shape) != 2 or len(y_pred.shape) != 3 or not _fit(labels.shape, y_pred.shape):
        raise ValueError(
            "Labels must be of shape (batch, steps), outputs of a CRF (batch, steps + tags + 2, "
            f"tags). Received: labels {tuple(labels.shape)}, outputs {tuple(y_pred.shape)}"
        )
    _check_values(labels, num_tags, missing)
    labels, present = split_missing(ops.cast(labels, "float32"), missing)
    lengths = ops.sum(ops.cast(present, "int32"), axis=1)
    steps = ops.shape(labels)[1]
    is_tag = (labels >= 0) & (labels < num_tags) & ops.equal(labels, ops.floor(labels))
    in_order = ops.equal(present, ops.arange(steps, dtype="int32") < lengths[:, None])
    valid = ops.all(is_tag & in_order, axis=1)
    # Unequal numbers of steps that a graph gets to know when it runs might go together by chance.
    valid = valid & ops.equal(steps, ops.shape(y_pred)[1] - num_tags - 2)
    return ops.cast(ops.where(is_tag, labels, 0.0), "int32"), lengths, valid


def _fit(labels, outputs) -> bool:
    steps = None if outputs[1] is None else outputs[1] - outputs[2] - 2
    pairs = (labels[0], outputs[0]), (labels[1], steps)
    return all(a == b for a, b in pairs if None not in (a, b))


def _check_values(labels, num_tags, missing):
    try:
        values = ops.convert_to_numpy(labels).astype("float64")
    except (NotImplementedError, TypeError):
        return  # TensorFlow's error, or JAX's, while a function is compiled
    absent = (values != values) if math.isnan(missing) else values == missing
    wrong = ~absent & ~((values >= 0) & (values < num_tags) & (values % 1 == 0))
    late = ~absent[:, 1:] & absent[:, :-1]
    for found, rule in (
        (wrong, f"Labels must be whole numbers from 0 to {num_tags - 1}, or missing={missing}"),
        (late, f"After a row's first missing={missing} there must be no more labels"),
    ):
        if found.any():
            row, step = (int(i[0]) for i in found.nonzero())
            step += int(found is late)
            raise ValueError(
                f"{rule}. Received: {found.sum()} others, the first of them "
                f"{values[row, step]:g} in row {row}, step {step}"
            )
