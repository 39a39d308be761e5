"""Preparing inputs inside the file, so that every app feeds the same."""

from collections.abc import Mapping

import keras


def with_preprocessing(model: keras.Model, preprocessing: Mapping[str, keras.Model]):
    """A model that takes an input as the device has it.

    Args:
        model: A functional model.
        preprocessing: Input name -> a model with one input and one output, from what the device
            has to what `model` takes. The new input keeps the name.

    Raises:
        ValueError: for an input that the model lacks, or an output of another shape than it
            takes.
    """
    known = {x.name: x for x in model.inputs}
    for name, steps in preprocessing.items():
        if name not in known:
            raise ValueError(
                f"`preprocessing` must name inputs of the model, {sorted(known)}. "
                f"Received: {name!r}"
            )
        _check(steps, name, known[name])
    inputs, prepared = {}, []
    for name, x in known.items():
        steps = preprocessing.get(name)
        raw = x if steps is None else steps.inputs[0]
        inputs[name] = keras.Input(batch_shape=(None, *raw.shape[1:]), dtype=raw.dtype, name=name)
        prepared.append(inputs[name] if steps is None else steps(inputs[name]))
    outputs = model(keras.tree.pack_sequence_as(model.input, prepared))
    whole = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    return keras.Model(whole, outputs, name=model.name)


def _check(steps, name, x) -> None:
    ends = (getattr(steps, "inputs", None) or [], getattr(steps, "outputs", None) or [])
    if tuple(map(len, ends)) != (1, 1):
        raise ValueError(
            "`preprocessing` must hold Keras models with one input and one output, such as "
            "`keras.Sequential([keras.Input((480, 640, 3), dtype='uint8'), ...])`. "
            f"Received: {steps!r} for input {name!r}"
        )
    if None in ends[0][0].shape[1:]:
        raise ValueError(
            "`preprocessing` must start from one size, which a file's memory is planned for. "
            f"Received: {ends[0][0].shape[1:]} for input {name!r}"
        )
    if tuple(ends[1][0].shape[1:]) != tuple(x.shape[1:]):
        raise ValueError(
            f"`preprocessing` must end in what input {name!r} takes, {tuple(x.shape[1:])}. "
            f"Received: {tuple(ends[1][0].shape[1:])}"
        )
