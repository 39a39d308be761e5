"""Words of sentences, as helper tasks on text read them."""

from collections.abc import Mapping

import numpy as np

NO_LABEL = -1


def word_ids(x, words: str | None, task: str, size: int) -> np.ndarray:
    """The word ids among a data set's inputs, of shape `(N, steps)`.

    Args:
        x: The inputs: an array, or a dict of them.
        words: Name of the entry that holds the ids, or None if `x` is the array.
        task: The auxiliary task that asks, for the message.
        size: How many ids there are.

    Raises:
        ValueError: if there is no such entry, or it holds no ids below `size`.
    """
    if isinstance(x, Mapping) != (words is not None) or (words is not None and words not in x):
        known = sorted(x) if isinstance(x, Mapping) else "an array"
        raise ValueError(
            "`words` must name the input that holds the word ids where inputs are a dict, and be "
            f"None where they are an array. Received: words={words!r}, {known} for {task!r}"
        )
    ids = np.asarray(x if words is None else x[words])
    if ids.ndim != 2 or not np.array_equal(ids, ids.astype("int64")):
        raise ValueError(
            "Word ids must be whole numbers of shape (N, steps). "
            f"Received: {ids.dtype} of shape {ids.shape} for {task!r}"
        )
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise ValueError(
            f"Word ids must be from 0 to {size - 1}. "
            f"Received: {ids.min()} to {ids.max()} for {task!r}"
        )
    return ids.astype("int32")


def neighbours(ids: np.ndarray, offset: int, size: int, padding: int) -> np.ndarray:
    """The word before or after each word, as int32 labels.

    ```
    labels[t] = min(ids[t + offset], size - 1)
              = -1            # where ids[t] or ids[t + offset] is padding, or there is none
    ```

    Args:
        ids: `(N, steps)`.
        offset: 1 for the next word, -1 for the one before.
        size: Number of labels: ids from `size - 1` on are one.
        padding: The id that is no word.
    """
    labels = np.full(ids.shape, NO_LABEL, "int32")
    first, second = ids[:, :-1], ids[:, 1:]
    here, other = (slice(None, -1), second) if offset == 1 else (slice(1, None), first)
    both = (first != padding) & (second != padding)
    labels[:, here] = np.where(both, np.minimum(other, size - 1), NO_LABEL)
    return labels
