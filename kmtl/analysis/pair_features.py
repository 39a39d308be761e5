"""Features of pairs of tasks, from features of tasks."""

import itertools
from collections.abc import Mapping

import numpy as np


def pair_features(
    features: Mapping[str, Mapping[str, float]],
) -> dict[tuple[str, str], dict[str, float]]:
    """Features of all ordered pairs of tasks, for `kmtl.analysis.TaskGainPredictor`.

    ```
    pair[main_x] = main[x];  pair[auxiliary_x] = auxiliary[x]
    pair[main/auxiliary_x] = main[x] / auxiliary[x]                    (0 where auxiliary[x] is)
    ```

    Args:
        features: Features of each task, the same for all, such as of
            `kmtl.analysis.task_features`.

    Returns:
        Three features for each of a task's, for each `(main, auxiliary)`.

    Raises:
        ValueError: for fewer than two tasks, different features of tasks, and ones not finite.

    Example:

    >>> import kmtl
    >>> pairs = kmtl.analysis.pair_features({"pos": {"entropy": 2.0}, "ner": {"entropy": 0.5}})
    >>> print(pairs["pos", "ner"])
    {'main_entropy': 2.0, 'auxiliary_entropy': 0.5, 'main/auxiliary_entropy': 4.0}

    Differences from the paper: what it does where a ratio divides by 0 is not known.

    Reference: J. Bingel, A. Soegaard (2017), "Identifying beneficial task relations for
    multi-task learning in deep neural networks", EACL, arXiv:1702.08303, section 3.
    """
    if len(features) < 2:
        raise ValueError(f"`features` must be of at least two tasks. Received: {sorted(features)}")
    names = sorted(next(iter(features.values()), ()))
    for task, values in features.items():
        if sorted(values) != names or not np.isfinite(list(values.values())).all():
            raise ValueError(
                "`features` must be finite and the same for all tasks. "
                f"Received: features[{task!r}]={dict(values)}, where another task has {names}"
            )
    pairs = {}
    for main, auxiliary in itertools.permutations(sorted(features), 2):
        pair = {}
        for name in names:
            first, second = float(features[main][name]), float(features[auxiliary][name])
            pair[f"main_{name}"] = first
            pair[f"auxiliary_{name}"] = second
            pair[f"main/auxiliary_{name}"] = first / second if second else 0.0
        pairs[main, auxiliary] = pair
    return pairs
