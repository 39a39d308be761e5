"""What the rules that need the tasks' gradients themselves have in common."""

from keras import ops

from kmtl.weighting.gradient import GradientWeighting


class JacobianWeighting(GradientWeighting):
    """Base of the rules that need the gradients themselves, not only their products.

    Write one by overriding `solve_jacobian`, a pure function of the rows and of the state, and
    where needed `create_buffers` and `update_buffers`, for state of the gradients' size.

    Attributes:
        samples: Into how many independent parts of the batch the rule wants the gradients
            split; if more than one, `jacobian` is `(samples, T, P)` everywhere.
        gives_weights: Whether `step` returns weights, which can be shown and can scale heads.
        by_feature: Whether with "representation" the rule decides once for each feature, for
            the whole batch: it then gets the gradients times the sign of the features, added
            up over the batch, and gives factors of the gradients by `step_by_feature`.
    """

    scopes = ("representation", "parameters")
    compiles = False
    samples = 1
    by_feature = False
    gives_weights = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.scale_heads and not self.gives_weights:
            raise ValueError(
                f"{type(self).__name__} has no coefficients that heads could be scaled by. "
                "Received: scale_heads=True"
            )

    def describe(self, weights):
        """Nothing, unless there are weights to show."""
        return super().describe(weights) if self.gives_weights else {}

    def combine(self, jacobian, losses=None):
        jacobian = ops.cast(ops.convert_to_tensor(jacobian), "float32")
        if self.samples > 1 and len(jacobian.shape) == 2:  # the same gradients for each part
            jacobian = ops.broadcast_to(jacobian, (self.samples, *jacobian.shape))
        parts = self.samples > 1
        expected = f"(T, P) or ({self.samples}, T, P)" if parts else "(T, P)"
        if len(jacobian.shape) != 2 + parts or (parts and jacobian.shape[0] != self.samples):
            raise ValueError(
                f"`jacobian` must be of shape {expected}. "
                f"Received: jacobian of shape {tuple(jacobian.shape)}"
            )
        n = jacobian.shape[-2]
        self.bind_to(n)
        if jacobian.shape[-1] is not None:
            self.bind_size(n, jacobian.shape[-1])
        return self.solve_jacobian(jacobian, self._losses(losses, n))

    def coefficients(self, gramian, losses=None):
        raise ValueError(
            f"{type(self).__name__} works on the gradients themselves, not on their products: use "
            "`combine(jacobian)`. Received: a Gramian"
        )

    def bind_size(self, num_tasks: int, size: int) -> None:
        """Creates the buffers for gradients of this size, unless they are there.

        Raises:
            ValueError: if they are there for another size.
        """
        if getattr(self.state, "gradient_size", size) != size:
            raise ValueError(
                f"This `{type(self).__name__}` has the state of {self.state.gradient_size} "
                f"weights; make a new one for others. Received: {size} weights"
            )
        if not hasattr(self.state, "gradient_size"):
            self.create_buffers(num_tasks, size)
            self.state.gradient_size = size

    def create_buffers(self, num_tasks: int, size: int) -> None:
        """Adds variables whose shape depends on the number of weights; here none."""

    def update_buffers(self, jacobian, losses) -> None:
        """Moves the state on, after the update of a step has been read."""

    def solve_jacobian(self, jacobian, losses):
        """The combined gradient `(P,)`, from float32 tensors."""
        raise NotImplementedError

    def step(self, gramian, jacobian, losses, finite, due=True):
        arguments = [gramian, jacobian, losses]
        return None, self._run_compiled(self.advance_rows, arguments, finite, due)

    def advance_rows(self, gramian, jacobian, losses):
        """The combined gradient; then moves the state on."""
        update = self.solve_jacobian(jacobian, losses)
        self.update(gramian, losses)
        self.update_buffers(jacobian, losses)
        return update
