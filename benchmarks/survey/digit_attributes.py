"""Nine yes-or-no questions about a digit: which it is, and how it is written."""

import numpy as np

OF_DIGIT = {"even": (0, 2, 4, 6, 8), "from_five": (5, 6, 7, 8, 9), "loop": (0, 4, 6, 8, 9)}
OF_DIGIT |= {"prime": (2, 3, 5, 7), "straight": (1, 4, 7), "threefold": (0, 3, 6, 9)}
OF_PEN = ("slanted", "thick", "top_heavy")
TASKS, SHAPE = (*OF_DIGIT, *OF_PEN), (28, 28, 1)


def of_pen(images: np.ndarray) -> dict[str, np.ndarray]:
    """How each digit is written: task -> a number, from moments of its ink and from its edges."""
    y, x = (axis.ravel().astype("float32") for axis in np.indices(SHAPE[:2]))
    flat = images.reshape(len(images), -1)
    ink, *sums = (flat @ np.stack([np.ones_like(y), x, y, x * y, y * y], axis=1)).T
    mean_x, mean_y, xy, yy = (s / ink for s in sums)
    edges = sum(np.abs(np.diff(images, axis=axis)).sum(axis=(1, 2, 3)) for axis in (1, 2))
    return {
        "slanted": -(xy - mean_x * mean_y) / (yy - mean_y**2),  # rows count downwards
        "thick": ink / edges,
        "top_heavy": images[:, : SHAPE[0] // 2].sum(axis=(1, 2, 3)) / ink,
    }


def attributes(images: np.ndarray, digits: np.ndarray, medians: dict) -> dict[str, np.ndarray]:
    """Task -> 1 for yes, 0 for no."""
    found = {task: np.isin(digits, yes) for task, yes in OF_DIGIT.items()}
    found |= {task: value > medians[task] for task, value in of_pen(images).items()}
    return {task: found[task].astype("float32") for task in TASKS}
