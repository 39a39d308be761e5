"""Updates by an optimizer under TensorFlow, on one replica and on several."""

import contextlib
import functools

import tensorflow as tf
from keras.optimizers import LossScaleOptimizer


def update_one(model, gradients, valid) -> None:
    """Applies the gradients if `valid`, where there is no strategy."""
    optimizer, variables = model.optimizer, model.trainable_variables
    if isinstance(optimizer, LossScaleOptimizer):  # skips by itself what is not finite
        optimizer.apply(gradients, variables)
    else:
        tf.cond(valid, lambda: (optimizer.apply(gradients, variables), 0)[1], lambda: 0)


def update_replicas(model, gradients, valid) -> None:
    """Applies the sum of the replicas' gradients if `valid`, which is the same on all of them.

    Differs from what Keras's optimizers do by themselves in this:
    - Gradients are added up first, so that clipping sees the global ones, as on one replica.
    - A gradient that is not finite on one replica counts on all.
    - Accumulation works. Its update needs the cross-replica context, which a branch cannot enter
      (keras#20582): it is entered first and all branches are taken in there. What accumulates are
      global sums, the same on each replica, so that files hold them whole.
    """
    optimizer, variables = model.optimizer, model.trainable_variables
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    steps = inner.gradient_accumulation_steps or 1
    scaled = isinstance(optimizer, LossScaleOptimizer)
    gradients = _sum_over_replicas(gradients)
    if scaled:
        valid = optimizer.check_finite(gradients)

    def on_all_replicas(strategy, valid, gradients):
        def each(apply, accumulation=None):
            def on_one(gradients):
                if scaled:
                    optimizer._stateful_handle_finite_grads(gradients, variables)
                else:
                    inner.apply(gradients, variables)

            # Around all replicas, whose threads take turns.
            with (
                _without_reduction(inner),
                _replaced(inner, apply=apply, gradient_accumulation_steps=accumulation),
            ):
                strategy.extended.call_for_each_replica(on_one, args=(gradients,))
            return 0

        def update():
            if steps == 1:
                return each(inner.apply)
            due = tf.equal((inner._iterations.value + 1) % steps, 0)
            return tf.cond(
                due,
                lambda: each(functools.partial(_apply_mean, inner, steps)),
                lambda: each(functools.partial(_accumulate, inner), accumulation=steps),
            )

        def leave_out():
            if scaled:
                optimizer._stateful_handle_non_finite_grads()
            return 0

        tf.cond(strategy.experimental_local_results(valid)[0], update, leave_out)

    tf.distribute.get_replica_context().merge_call(on_all_replicas, args=(valid, gradients))


def _sum_over_replicas(gradients):
    present = [g for g in gradients if g is not None]
    sums = iter(tf.distribute.get_replica_context().all_reduce("SUM", present))
    return [None if g is None else next(sums) for g in gradients]


def _without_reduction(optimizer):
    """While a step is traced, the optimizer takes gradients as those of all replicas."""
    stack = contextlib.ExitStack()
    for one in getattr(optimizer, "optimizers", [optimizer]):  # MultiOptimizer has several
        stack.enter_context(_replaced(one, _all_reduce_sum_gradients=list))
    return stack


@contextlib.contextmanager
def _replaced(instance, **attributes):
    """These attributes are others while a step is traced."""
    before = {name: vars(instance)[name] for name in attributes if name in vars(instance)}
    for name, value in attributes.items():
        setattr(instance, name, value)
    try:
        yield
    finally:
        for name in attributes:
            delattr(instance, name)
            if name in before:
                setattr(instance, name, before[name])


def _accumulate(optimizer, gradients, trainable_variables) -> None:
    """Keeps the gradients for a later update."""
    pairs = [(g, v) for g, v in zip(gradients, trainable_variables, strict=True) if g is not None]
    kept = [optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for _, v in pairs]
    optimizer._backend_increment_gradient_accumulators(
        [tf.convert_to_tensor(g) for g, _ in pairs], kept
    )
    if optimizer.use_ema:  # as Keras does at each micro-batch
        optimizer._update_model_variables_moving_average(optimizer._trainable_variables)
    optimizer._iterations.assign_add(1)


def _apply_mean(optimizer, steps, gradients, trainable_variables) -> None:
    """The update by the mean over the micro-batches, this last one included.

    To be called while the optimizer does not accumulate: it then takes what counts micro-batches
    for the number of updates.
    """
    done = tf.identity(optimizer._iterations.value)
    means = []
    for gradient, variable in zip(gradients, trainable_variables, strict=True):
        if gradient is not None:
            kept = optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]
            gradient = (tf.convert_to_tensor(gradient) + kept.value) / steps
        means.append(gradient)
    optimizer._iterations.assign(done // steps)
    type(optimizer).apply(optimizer, means, trainable_variables)
    optimizer._iterations.assign(done + 1)
    optimizer._backend_reset_gradient_accumulators()
