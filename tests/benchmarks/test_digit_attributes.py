"""What the tasks of the page on branching ask of an image."""

import numpy as np

from benchmarks.survey.digit_attributes import TASKS, attributes, of_pen


def stroke(lean: int, width: int, top: int = 4, bottom: int = 24) -> np.ndarray:
    """A line from top to bottom that ends `lean` columns to the right of where it began below."""
    image = np.zeros((28, 28, 1), "float32")
    for row in range(top, bottom):
        left = 12 + round(lean * ((top + bottom) / 2 - row) / (bottom - top))
        image[row, left : left + width] = 1.0
    return image


def test_how_a_stroke_is_written():
    images = [stroke(8, 2), stroke(-8, 2), stroke(0, 5), stroke(0, 2, 0, 14), stroke(0, 2, 14, 28)]
    found = of_pen(np.stack(images))
    right, left, upright = found["slanted"][:3]
    assert right > 0.2 and left < -0.2 and abs(upright) < 1e-3
    assert found["thick"][2] > 1.5 * found["thick"][3]
    assert found["top_heavy"][3:].tolist() == [1.0, 0.0]


def test_what_a_digit_is():
    medians = {"slanted": 0.0, "thick": 0.0, "top_heavy": 0.5}
    found = attributes(np.stack([stroke(8, 2)] * 3), np.array([7, 8, 9]), medians)
    assert tuple(found) == TASKS
    yes = {task: values.astype(int).tolist() for task, values in found.items()}
    assert yes["prime"] == yes["straight"] == [1, 0, 0]
    assert yes["loop"] == [0, 1, 1] and yes["even"] == [0, 1, 0] and yes["threefold"] == [0, 0, 1]
    assert yes["slanted"] == [1, 1, 1] and yes["from_five"] == [1, 1, 1]
