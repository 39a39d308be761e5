"""That what came out of a run is made of numbers."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from kmtl import backend


def check_weights(model: keras.Model) -> None:
    """Raises FloatingPointError for weights of which nothing can be computed; all workers call it.

    A layer may hide them from the loss, as relu does that makes 0 of NaN.
    """
    backend.bring_up_to_date(model)
    with backend.scope(model):
        bad = [
            variable.path
            for variable in model.weights
            if "float" in variable.dtype
            and not np.isfinite(ops.convert_to_numpy(ops.convert_to_tensor(variable))).all()
        ]
    if bad:
        raise FloatingPointError(
            "The trained weights must be finite for a model to be saved. "
            f"Received: NaN or infinity in {', '.join(bad[:5])}"
        )


def check_measured(logs: Mapping[str, float]) -> None:
    """Raises FloatingPointError for what `evaluate` returned, if it is no number."""
    bad = {name: value for name, value in logs.items() if not np.isfinite(value)}
    if bad:
        raise FloatingPointError(f"What is measured on `data.test` must be finite. Received: {bad}")
