"""What an exported model is compared with: the trained model's outputs on some inputs."""

import keras
import numpy as np

from kmtl.export.samples import noise_samples, read_samples

VERIFICATION_SAMPLES = 64


def verification_inputs(plain: keras.Model, representative_data) -> dict[str, np.ndarray]:
    """The inputs to compare on: the first of the representative data, or noise.

    Args:
        plain: The folded model.
        representative_data: As `read_samples` takes it, or None.
    """
    if representative_data is None:
        return noise_samples(plain, VERIFICATION_SAMPLES)
    samples = read_samples(representative_data, {x.name: x for x in plain.inputs})
    return {name: array[:VERIFICATION_SAMPLES] for name, array in samples.items()}


def expected_outputs(
    model: keras.Model, plain: keras.Model, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The trained model's outputs; the folded one's where the trained one cannot be asked.

    That is so when the chosen tasks need only some of its inputs, and in mixed precision,
    whose rounding would hide the file's own error.

    Args:
        model: The trained model.
        plain: The folded model.
        inputs: Samples by input name.
    """
    same_inputs = len(model.inputs) == len(plain.inputs)
    reference = model if same_inputs and model.compute_dtype == "float32" else plain
    flat = [inputs[x.name] for x in reference.inputs]
    packed = keras.tree.pack_sequence_as(reference.input, flat)
    if all("float" in x.dtype for x in reference.inputs):
        outputs = reference(packed, training=False)
    else:  # called directly, some layers round what they make of integers; `predict` does not
        outputs = reference.predict_on_batch(packed)
    return {
        task: keras.ops.convert_to_numpy(outputs[task]).astype("float32") for task in plain.output
    }


def check_finite(expected: dict[str, np.ndarray]) -> None:
    """Raises ValueError with the names of the heads that are not finite."""
    bad = sorted(task for task, y in expected.items() if not np.isfinite(y).all())
    if bad:
        raise ValueError(
            "The model's outputs must be finite on the data that it is verified on. "
            f"Received: NaN or infinity in {', '.join(bad)}"
        )
