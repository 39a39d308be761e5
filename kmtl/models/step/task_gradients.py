"""The gradients of one training step, by a rule that sees each task's own gradient."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kmtl import backend
from kmtl.models.step.accumulated_gradients import AccumulatedGradients
from kmtl.models.step.parting import Parting
from kmtl.models.step.row_combination import RowCombination
from kmtl.models.step.task_penalties import TaskPenalties
from kmtl.models.step.task_rows import Copies, Taps
from kmtl.weighting.gradient import GradientWeighting


@dataclasses.dataclass(frozen=True)
class StepGradients:
    """What one batch gives.

    Attributes:
        gradients: One for each of the model's trainable variables, or None; this replica's
            share, scaled as the optimizer wants it.
        valid: Whether every task's gradient is finite.
        weights: `(T,)`, what the rule made of the tasks, or None if it gave no weights.
        due: Whether the weights are those of an update, not of a part of its batch.
        losses: `(T,)`, this replica's share.
        penalties: Sum of regularizers and `add_loss`.
        outputs: Task -> output.
    """

    gradients: list
    valid: Any
    weights: Any
    due: Any
    losses: Any
    penalties: Any
    outputs: dict


class TaskGradients:
    """Runs a batch forward and backward, and lets a rule combine the tasks' gradients.

    ```
    forward     inputs -> trunk -> Z -> heads, each on its own copy of Z -> L_1 ... L_T
    backward    one pass from all losses to the copies: rows[t] = dL_t / dZ, and the heads
    rule        "representation"  sees the rows. Their Gramian adds over samples, so that
                                  replicas exchange T x T numbers
                "parameters"      sees products of the rows pulled back to the trunk's weights:
                                  for dense layers from inputs and signals, else T passes
                "last_shared"     the same for the last layers of the trunk
    backward    one pass from the combined rows through the trunk
    ```

    Args:
        model: A compiled model with named tasks.
        rule: Its rule.
        parting: Where its tasks part.
        accumulated: What earlier micro-batches add up to, or None where there are none.
        penalties: Those across the weights of tasks.
    """

    def __init__(
        self,
        model: keras.Model,
        rule: GradientWeighting,
        parting: Parting,
        accumulated: AccumulatedGradients | None,
        penalties: TaskPenalties,
    ):
        self.model, self.rule, self.parting = model, rule, parting
        self._penalties = penalties
        self._combination = RowCombination(rule, parting, accumulated)
        self._probes = []
        for tensor in parting.tensors:
            readers = parting.dense_readers(tensor)
            if readers:
                self._probes.append(Taps(readers, parting.tasks, rule.task_names))
            else:
                self._probes.append(Copies(parting.tasks, rule.task_names))

    def __call__(self, inputs, task_losses: Callable) -> StepGradients:
        """The gradients on one batch.

        Args:
            inputs: The batch's inputs.
            task_losses: `outputs by task -> (T,)`, this replica's share of the losses of the
                tasks that have one, in the order of `rule.task_names`.
        """
        rule, variables = self.rule, self.parting.trunk_variables
        scale = ops.cast(self.model.optimizer.scale_loss(1.0), "float32")
        penalty_share = scale / backend.num_replicas()
        products = self._combination.weight_gramian()
        trunk = self._run_trunk(inputs, products)
        masks, read = trunk.rest
        heads = self._run_heads(inputs, trunk.outputs, masks, task_losses)
        losses = heads.outputs[0]
        reduced = ops.cast(backend.all_reduce_sum(ops.stop_gradient(losses)), "float32")

        def pull_heads(weights):
            return heads.pull([scale * weights, *(penalty_share for _ in heads.emitted)])

        def pull_trunk(cotangents, variables):
            cotangents = [*(scale * x for x in cotangents), *(None for _ in trunk.emitted)]
            return keras.tree.map_structure(
                lambda g: None if g is None else ops.cast(g, "float32") / scale,
                trunk.pull(cotangents, variables),
            )

        def weight_gramian(rows):
            return products(rows, read, pull_trunk)

        stretch = rule.stretch(reduced)
        head_gradients, by_probe = pull_heads(stretch)
        rows = self._rows(by_probe, trunk.outputs, scale)
        combined = self._combination(rows, trunk.outputs, reduced, pull_trunk, weight_gramian)
        if rule.scale_heads:
            head_gradients, _ = pull_heads(stretch * combined.weights)
        total = _Sum()
        total.add(self.parting.head_variables, head_gradients)
        total.add(variables, [None if g is None else penalty_share * g for g in combined.variables])
        others = [v for v, g in zip(variables, combined.variables, strict=True) if g is None]
        cotangents = [None if x is None else scale * x for x in combined.features]
        shares = [penalty_share for _ in trunk.emitted]
        if shares and len(others) < len(variables):
            total.add(variables, trunk.pull([*(None for _ in cotangents), *shares])[0])
            shares = [None for _ in shares]
        total.add(others, trunk.pull([*cotangents, *shares], others)[0])
        penalties = self._add_penalties(total, penalty_share) + sum(
            (ops.sum(ops.cast(p, losses.dtype)) for p in trunk.emitted + heads.emitted), 0.0
        )
        return StepGradients(
            gradients=[total.get(v) for v in self.model.trainable_variables],
            valid=combined.valid,
            weights=None if combined.weights is None else stretch * combined.weights,
            due=combined.due,
            losses=losses,
            penalties=penalties,
            outputs=heads.rest,
        )

    def _run_trunk(self, inputs, products):
        def function(arguments):
            with backend.calling(self.model, training=True) as emitted:
                features, read = self.parting.run_trunk(inputs, products.taps(arguments))
                emitted = emitted()
            return [*features, *emitted], ([backend.get_mask(x) for x in features], read)

        arguments = products.arguments(ops.shape(keras.tree.flatten(inputs)[0])[0])
        outputs, rest, pull = backend.linearize(function, self.parting.trunk_variables, arguments)
        n = len(self.parting.tensors)
        return _Run(outputs[:n], outputs[n:], rest, pull)

    def _run_heads(self, inputs, features, masks, task_losses):
        def function(arguments):
            by_task, taps = {task: [] for task in self.parting.tasks}, {}
            for probe, argument, feature, mask in zip(
                self._probes, arguments, features, masks, strict=True
            ):
                copies = probe.features(argument, feature)
                for task, x in zip(self.parting.tasks, copies, strict=True):
                    if mask is not None:
                        backend.set_mask(x, mask)
                    by_task[task].append(x)
                taps |= probe.taps(argument, feature)
            with backend.calling(self.model, training=True) as emitted:
                outputs = self.parting.run_heads(inputs, by_task, taps)
                emitted = emitted()
            return [task_losses(outputs), *emitted], outputs

        arguments = [p.argument(x) for p, x in zip(self._probes, features, strict=True)]
        outputs, predictions, pull = backend.linearize(
            function, self.parting.head_variables, arguments
        )
        return _Run(outputs[:1], outputs[1:], predictions, pull)

    def _rows(self, by_probe, features, scale):
        """Every task's gradient by each parting tensor, in float32 and without the scale."""
        rows = []
        for probe, gradient, feature in zip(self._probes, by_probe, features, strict=True):
            if gradient is None:
                gradient = ops.zeros_like(probe.argument(feature))
            rows.append(probe.rows(ops.cast(gradient, "float32") / scale, feature))
        return rows

    def _add_penalties(self, total, share):
        """Adds the gradients of the weights' regularizers; returns their sum."""
        regularized = [v for v in self.model.trainable_variables if v.regularizer]
        across = [v for v in self._penalties.variables if not v.regularizer]
        variables = [*regularized, *across]
        if not variables:
            return 0.0

        def function(_):
            penalties = [v.regularizer(v) for v in regularized] + self._penalties()
            return [sum(ops.sum(p) for p in penalties)], None

        (penalty,), _, pull = backend.linearize(function, variables)
        total.add(variables, pull([share])[0])
        return penalty


@dataclasses.dataclass(frozen=True)
class _Run:
    outputs: list
    emitted: list  # losses that layers added
    rest: Any
    pull: Callable


class _Sum:
    """Gradients by variable, added up."""

    def __init__(self):
        self._by_id = {}

    def add(self, variables, gradients):
        for variable, gradient in zip(variables, gradients, strict=True):
            if gradient is not None:
                before = self._by_id.get(id(variable))
                self._by_id[id(variable)] = gradient if before is None else before + gradient

    def get(self, variable):
        return self._by_id.get(id(variable))
