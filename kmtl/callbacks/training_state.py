"""All that a training run depends on, as arrays and as what JSON can hold."""

import keras
import numpy as np
from keras import ops

from kmtl import backend

# What these callbacks of Keras remember from epoch to epoch.
_REMEMBERED = {
    "EarlyStopping": ("wait", "best", "best_epoch", "stopped_epoch"),
    "ModelCheckpoint": ("best", "epochs_since_last_save"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
}
_REFUSAL = (
    "Model, optimizer and weighting must be those that the backup was made with; choose another "
    "`folder` for others."
)


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Weights, seeds, weighting state, optimizer state and metrics, each once."""
    groups = model.variables, model.optimizer.variables, model.metrics_variables
    return list({id(v): v for group in groups for v in group}.values())


def collect(model: keras.Model) -> tuple[dict[str, np.ndarray], list]:
    """The variables' values, and path, shape and type of each.

    All workers must call it: some variables are sums over what each of them holds.
    """
    backend.bring_up_to_date(model)
    arrays, specs = {}, []
    with backend.scope(model):
        for i, variable in enumerate(variables_of(model)):
            # As a tensor first, which adds up what replicas hold apart.
            value = ops.convert_to_numpy(ops.convert_to_tensor(variable))
            arrays[f"{i:06d}"] = value
            specs.append([variable.path, list(value.shape), str(value.dtype)])
    return arrays, specs


def assign(model: keras.Model, arrays: dict[str, np.ndarray], specs: list) -> None:
    """The opposite of `collect`.

    Raises:
        ValueError: if the model has other variables; none is then changed.
    """
    variables = variables_of(model)
    if len(variables) != len(specs):
        raise ValueError(
            f"{_REFUSAL} Received: {len(variables)} variables, in the backup {len(specs)}"
        )
    for variable, (path, shape, _) in zip(variables, specs, strict=True):
        if list(variable.shape) != shape:
            raise ValueError(
                f"{_REFUSAL} Received: {variable.path} of shape {tuple(variable.shape)}, in the "
                f"backup {path} of shape {tuple(shape)}"
            )
    with backend.scope(model):
        for i, (variable, (_, _, dtype)) in enumerate(zip(variables, specs, strict=True)):
            # NumPy's files know no bfloat16: it comes back as bytes.
            variable.assign(arrays[f"{i:06d}"].view(np.dtype(dtype)))


def callback_states(callbacks) -> tuple[list, dict[str, np.ndarray]]:
    """Name and memory of each callback that has one: its `get_state()`, or what Keras's keep.

    The second are the weights that `EarlyStopping` is to restore in the end.
    """
    states, arrays = [], {}
    for callback in callbacks:
        name = type(callback).__name__
        if hasattr(callback, "get_state"):
            states.append([name, callback.get_state()])
        elif name in _REMEMBERED:
            values = {key: getattr(callback, key, None) for key in _REMEMBERED[name]}
            state = {k: None if v is None else float(v) for k, v in values.items()}
            best = getattr(callback, "best_weights", None)
            if best is not None:
                state["best_weights"] = [str(weight.dtype) for weight in best]
                arrays |= {_best(len(states), i): weight for i, weight in enumerate(best)}
            states.append([name, state])
    return states, arrays


def set_callback_states(callbacks, states: list, arrays: dict[str, np.ndarray]) -> None:
    """The opposite of `callback_states`; others may have come or gone.

    Raises:
        ValueError: if one that has a memory is missing.
    """
    left = list(callbacks)
    for number, (name, state) in enumerate(states):
        callback = next((c for c in left if type(c).__name__ == name), None)
        if callback is None:
            raise ValueError(
                "`callbacks` of `fit` must have those that the backup holds the state of. "
                f"Received: no {name}, or fewer than there were"
            )
        left.remove(callback)
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        else:
            types = state.get("best_weights", [])
            best = [arrays[_best(number, i)].view(np.dtype(t)) for i, t in enumerate(types)]
            for key, value in (state | ({"best_weights": best} if types else {})).items():
                setattr(callback, key, value)


def stopped_early(states: list) -> bool:
    """Whether Keras's `EarlyStopping` has ended the run."""
    return any(name == "EarlyStopping" and state["stopped_epoch"] for name, state in states)


def _best(number, i):
    return f"best_{number}_{i:06d}"
