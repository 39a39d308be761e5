"""Gradients and the training step under JAX.

`keras.distribution` shards arrays, not programs: a step sees the global batch, so its sums
are global already and XLA inserts the communication.

Inside a step, variables live in a `keras.StatelessScope`, which maps them to traced values and
notes what is assigned to them.
"""

import contextlib

import jax
import keras
from keras.optimizers import LossScaleOptimizer
from keras.src.backend.common.stateless_scope import get_stateless_scope


def in_strategy() -> bool:
    """Never."""
    return False


def num_replicas() -> int:
    """Always 1: one program sees the global batch."""
    return 1


def spreads(model) -> bool:
    """Never, as one program sees the global batch."""
    del model
    return False


def compiles_whole_step(model) -> bool:
    """Always."""
    del model
    return True


def several_steps(model, step):
    """Not called, as Keras's own loop works here."""
    raise NotImplementedError


def scope(model):
    """A context in which the model's variables can be assigned to."""
    del model
    return contextlib.nullcontext()


def bring_up_to_date(model) -> None:
    """Variables hold what the last step left in them; in `fit` they do not, before this."""
    model.jax_state_sync()


def is_first_worker(model) -> bool:
    """Whether this process is the one that writes files."""
    del model
    return jax.process_index() == 0


def check_same_on_workers(model, number: int) -> None:
    """Nothing, as kmtl runs on one process under JAX."""


def spread_dataset(model, mixture, first_step: int):
    """A mixture's batches from a step on; `keras.distribution` spreads them."""
    del model
    return mixture.dataset(first_step)


def replica_index() -> int:
    """Always 0, as there is one."""
    return 0


def all_reduce_sum(x):
    """`x` itself: sums over a sharded batch are global."""
    return x


def all_gather(x):
    """`(1, ...)`, as there is one program."""
    return x[None]


def linearize(function, variables, tensors=()):
    """As in `kmtl.backend.tensorflow`: the same arguments and results."""
    everything, scope = list(variables), get_stateless_scope()

    def pure(values, tensors):
        with keras.StatelessScope(collect_losses=True) as inner:
            if scope is not None:
                inner.state_mapping.update(scope.state_mapping)
            given = {id(v): value for v, value in zip(everything, values, strict=True)}
            inner.state_mapping.update(given)
            outputs, rest = function(list(tensors))
            assigned = {k: x for k, x in inner.state_mapping.items() if k not in given}
        return outputs, (rest, assigned)

    values = [jax.numpy.asarray(v.value) for v in everything]
    outputs, pull_all, (rest, assigned) = jax.vjp(pure, values, list(tensors), has_aux=True)
    if scope is not None:
        scope.state_mapping.update(assigned)

    def pull(cotangents, variables=None, sparse=False):
        del sparse  # JAX has dense gradients only
        cotangents = [
            jax.numpy.zeros_like(y) if g is None else g.astype(y.dtype)
            for y, g in zip(outputs, cotangents, strict=True)
        ]
        # All are computed; those that nobody reads are left out when the step is compiled.
        by_variable, by_tensor = pull_all(cotangents)
        if variables is not None:
            place = {id(v): i for i, v in enumerate(everything)}
            by_variable = [by_variable[place[id(v)]] for v in variables]
        return by_variable, by_tensor

    return outputs, rest, pull


# Outside of a compiled function, JAX compiles the body of a loop anew at each call.
EAGER_LOOPS_ARE_FAST = False


def compiled(function, variables, by_xla):
    """As in `kmtl.backend.tensorflow`, always by XLA."""
    del by_xla

    @jax.jit
    def pure(values, *args):
        with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
            before = [scope.get_current_value(v) for v in variables]
            result = function(*args)
            after = [scope.get_current_value(v) for v in variables]
        return result, [None if new is old else new for new, old in zip(after, before, strict=True)]

    return lambda *args: pure([jax.numpy.asarray(v.value) for v in variables], *args)


def build_optimizer(model) -> None:
    """Creates the optimizer's variables, which a backup may have values for."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def gradient_step(model, step, data, state):
    """As in `kmtl.backend.tensorflow`, from the variables' values in `state` to new ones."""
    trainable, others, optimizer_values, metrics = state
    groups = [
        (model.trainable_variables, trainable),
        (model.non_trainable_variables, others),
        (model.optimizer.variables, optimizer_values),
        (model.metrics_variables, metrics),
    ]
    pairs = [pair for group in groups for pair in zip(*group, strict=True)]
    with keras.StatelessScope(pairs) as scope:
        gradients, valid, logs = step(data)
    others = [scope.get_current_value(v) for v in model.non_trainable_variables]
    metrics = [scope.get_current_value(v) for v in model.metrics_variables]

    def apply():
        return model.optimizer.stateless_apply(optimizer_values, gradients, trainable)

    if isinstance(model.optimizer, LossScaleOptimizer):  # skips by itself what is not finite
        trainable, optimizer_values = apply()
    else:
        trainable, optimizer_values = jax.lax.cond(
            valid, apply, lambda: (list(trainable), list(optimizer_values))
        )
    return logs, (trainable, others, optimizer_values, metrics)


def after_step(model, function, result):
    """Runs `function()` on the values that a training step left behind."""
    logs, (trainable, others, optimizer_values, metrics) = result
    pairs = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(model.non_trainable_variables, others, strict=True),
    ]
    with keras.StatelessScope(pairs) as scope:
        function()
    others = [scope.get_current_value(v) for v in model.non_trainable_variables]
    return logs, (trainable, others, optimizer_values, metrics)
