"""Decoding of a CRF's outputs where there is NumPy only, as on a device.

This file needs nothing else of kmtl: copy it to where the deployed model runs.
"""

import numpy as np


def decode(outputs, lengths=None) -> np.ndarray:
    """The tags with the highest score, of equal ones the lowest: those of `CRF.decode`.

    Args:
        outputs: The deployed model's outputs, `(batch, steps + tags + 2, tags)`.
        lengths: Each row's number of steps, `(batch,)` of integers. Defaults to `None`, all of
            them.

    Returns:
        `(batch, steps)` of int32, -1 in padded steps.
    """
    outputs = np.asarray(outputs, "float32")
    rows, steps, num_tags = (
        outputs.shape[0],
        outputs.shape[1] - outputs.shape[2] - 2,
        outputs.shape[2],
    )
    tags = np.full((rows, steps), -1, "int32")
    for row, length in enumerate([steps] * rows if lengths is None else lengths):
        emissions, transitions = outputs[row, :steps], outputs[row, steps : steps + num_tags]
        start, end = outputs[row, -2:]
        best = [start + emissions[0]]  # at each step, the best score up to each tag
        for emission in emissions[1:length]:
            best.append((best[-1][:, None] + transitions).max(axis=0) + emission)
        following = end
        for step in reversed(range(length)):
            tags[row, step] = np.argmax(best[step] + following)
            following = transitions[:, tags[row, step]]
    return tags
