"""What the rules that see every task's own gradient have in common."""

from collections.abc import Sequence

from keras import ops

from kmtl import backend
from kmtl.weighting.base import TaskWeighting

SCOPES = ("representation", "parameters", "last_shared")
REDUCTIONS = ("sum", "mean")


class GradientWeighting(TaskWeighting):
    """Base of the rules that weigh tasks by their gradients.

    ```
    gramian[s, t] = gradient_s . gradient_t
    a = coefficients(gramian, losses)            # (T,)
    shared layers follow  sum_t a[t] * gradient_t
    heads follow their own task's gradient, times a[t] with `scale_heads`
    ```

    A rule never sees model, optimizer or replicas. Write one by overriding `solve`, a pure
    function of the Gramian, and where needed `create_state` and `update` (what it remembers),
    `draw` (its random numbers) and `stretch` (the length of what it gives).

    Args:
        scope: Which gradients the rule sees. `"representation"`: those by the tensors where
            the tasks part, at about the price of a plain step; an upper bound of what
            happens to the weights. `"parameters"`: the exact ones by all shared weights, one
            backward pass through the trunk for each task. `"last_shared"`: those by the
            weights of the last shared layers. Defaults to `"representation"`.
        parting: Names of the layers whose outputs are the tensors where the tasks part.
            Defaults to `None`: found from the model's graph. A layer with an output for each
            task, such as `MMoE`, counts as what comes after; where nothing shared is before
            it, name it, with the scope "parameters": by its outputs no two tasks conflict.
        scale_heads: Whether a task's head is scaled by its coefficient, too. Defaults to
            `False`.
        name: Name of the rule's state in the model. Defaults to `None`, the class name in
            snake case.
    """

    scopes = SCOPES
    # Whether XLA makes `solve` faster on a CPU: it does with many small operations, but not
    # with `eigh`.
    compiles = True

    def __init__(
        self,
        scope: str = "representation",
        parting: Sequence[str] | None = None,
        scale_heads: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        if scope not in self.scopes:
            raise ValueError(
                f"`scope` of {type(self).__name__} must be one of {self.scopes}. "
                f"Received: scope={scope!r}"
            )
        if isinstance(parting, str):
            raise ValueError(
                f"`parting` must be a list of layer names. Received: parting={parting!r}"
            )
        self.scope = scope
        self.parting = None if parting is None else list(parting)
        self.scale_heads = scale_heads
        self._compiled = {}

    def bind(self, losses):
        super().bind(losses)
        if not hasattr(self.state, "skipped"):
            self.state.skipped = self.state.add_weight(
                name="skipped",
                shape=(len(self.task_names),),
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

    @property
    def skipped(self):
        """`(T,)`: how often a task's gradient was not finite, so that the step was left out."""
        return self.state.skipped

    def coefficients(self, gramian, losses=None):
        """Coefficients `(T,)` of the tasks' gradients.

        Args:
            gramian: `(T, T)`, products of the tasks' gradients.
            losses: `(T,)`, the tasks' losses; ones where a rule does not need them.
        """
        gramian = ops.cast(ops.convert_to_tensor(gramian), "float32")
        shape = tuple(gramian.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                f"`gramian` must be of shape (T, T). Received: gramian of shape {shape}"
            )
        self.bind_to(shape[0])
        losses = self._losses(losses, shape[0])
        if backend.EAGER_LOOPS_ARE_FAST:
            return self.solve(gramian, losses)
        return self._compile(self.solve)(gramian, losses)[0]

    def combine(self, jacobian, losses=None):
        """The combined gradient `(P,)`.

        Args:
            jacobian: `(T, P)`, a task's gradient in each row.
            losses: As in `coefficients`.
        """
        jacobian = _as_jacobian(jacobian)
        gramian = ops.matmul(jacobian, ops.transpose(jacobian))
        return ops.matmul(self.coefficients(gramian, losses), jacobian)

    def solve(self, gramian, losses):
        """The coefficients, from float32 tensors; a function of these and of the state."""
        raise NotImplementedError

    def update(self, gramian, losses) -> None:
        """Moves the state on, after the coefficients of a step have been read."""

    def advance(self, gramian, losses):
        """`solve` and then `update`; overridden where they share their work."""
        a = self.solve(gramian, losses)
        self.update(gramian, losses)
        return a

    def draw(self) -> None:
        """Draws the next step's random numbers, which is slow when compiled with the rest."""

    def stretch(self, losses):
        """Factors `(T,)` of the losses before their gradients are taken; ones here."""
        return ops.ones_like(losses)

    def weights(self, losses):
        """Outside of training steps, where there are no gradients, tasks count alike."""
        return ops.ones_like(losses)

    def step(self, gramian, jacobian, losses, finite, due=True):
        """Coefficients and combined gradient for one training step; either may be None.

        The state moves on only if all tasks are finite and an update is due.

        Args:
            gramian: `(T, T)`, of the global batch.
            jacobian: `(T, N)`, or `(samples, T, N)`; for "representation" this replica's
                columns.
            losses: `(T,)`, of the global batch.
            finite: `(T,)`, whether the task's gradient is.
            due: Whether the optimizer applies an update at this step.
        """
        del jacobian
        return self._run_compiled(self.advance, [gramian, losses], finite, due), None

    def _run_compiled(self, method, arguments, finite, due):
        """Calls a method that moves the state on, as it does if all is finite and due."""
        valid = ops.all(finite) & due
        result, changes = self._compile(method)(*arguments)
        for variable, value in zip(self.state.variables, changes, strict=True):
            if value is not None:
                variable.assign(ops.where(valid, value, ops.convert_to_tensor(variable)))
        self.move_on(self.draw, valid)
        self._count_skipped(finite)
        return result

    def _compile(self, method):
        """A method, compiled once for each state."""
        key = method.__name__
        if self._compiled.get(key, (None, None))[0] is not self.state:
            function = backend.compiled(method, self.state.variables, self.compiles)
            self._compiled[key] = self.state, function
        return self._compiled[key][1]

    def _count_skipped(self, finite):
        self.skipped.assign(self.skipped + ops.cast(~finite, "float32"))

    def _losses(self, losses, n):
        if losses is None:
            return ops.ones((n,))
        losses = ops.cast(ops.convert_to_tensor(losses), "float32")
        if tuple(losses.shape) != (n,):
            raise ValueError(
                f"`losses` must be of shape ({n},), one for each row of the gradients. "
                f"Received: losses of shape {tuple(losses.shape)}"
            )
        return losses

    def get_config(self):
        return {
            **super().get_config(),
            "scope": self.scope,
            "parting": self.parting,
            "scale_heads": self.scale_heads,
        }


def check_reduction(reduction) -> None:
    """Raises `ValueError` unless it is `"sum"` or `"mean"`."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"`reduction` must be one of {REDUCTIONS}. Received: reduction={reduction!r}"
        )


def _as_jacobian(jacobian):
    jacobian = ops.cast(ops.convert_to_tensor(jacobian), "float32")
    if len(jacobian.shape) != 2:
        raise ValueError(
            "`jacobian` must be of shape (T, P). "
            f"Received: jacobian of shape {tuple(jacobian.shape)}"
        )
    return jacobian
