"""A task that the trunk is to make impossible: telling where a sample comes from."""

from collections.abc import Callable

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import features_of, marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.checks import is_missing
from kmtl.layers.gradient_reversal import GradientReversal
from kmtl.models.towers import last_activation


class AdversarialTask(AuxiliaryTask):
    """A domain head behind a gradient reversal: the head learns the domain, the trunk hides it.

    Use it when labels come from one domain and the model is for another: synthetic images and
    real ones, one hospital and the next. The target domain needs inputs only;
    `kmtl.auxiliary.domain_data` puts the domains together. Raise the strength from 0 with
    `kmtl.callbacks.GradientReversalSchedule`.

    ```
    head      descends  weight * L_domain
    trunk     descends  L_main - strength * weight * L_domain
    ```

    The head's accuracy on held-out data of all domains (`metrics`) shows how it stands. Near
    chance, with a domain loss near `log(number of domains)` when there are equally many of each,
    the features are aligned as far as *this* head can tell: that is the aim, not a failure. It
    says nothing if the head never learned; train it once with `strength=0.0` to see what a head
    can find in features that nobody hides. Batch normalisation sees the domains mixed in
    training; its moments then are of neither alone.

    Args:
        name: The task's name, new to the model.
        targets: `(x, y) -> domains`, or the name of the entry of `y` that holds them. With two
            domains 0 or 1, else class indices.
        head: A layer or model that ends in probabilities: `Dense(1, "sigmoid")` for two
            domains, `Dense(n, "softmax")` for n.
        features: Name of the layer of your model that is to hide the domain, or that tensor.
        strength: Start of the strength of the reversal, at least 0. Defaults to `1.0`.
        weight: Factor of the domain loss, for head and trunk. Defaults to `1.0`.
        loss: As `compile` takes it. Defaults to `"crossentropy"`, binary or by classes as the
            labels and the head ask for, of probabilities.
        missing: Domain that means "not known". Defaults to `None`, all are known.
        metrics: A metric or a list of them. Defaults to `"accuracy"`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; for a negative strength; for a head whose
            last layer has no activation with the default loss, or is a softmax of one output; and,
            when an attached task gets data, for domains that the head has no output for.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> h = keras.layers.Dense(8, activation="relu", name="trunk")(x)
    >>> model = keras.Model(x, {"digit": keras.layers.Dense(10, activation="softmax")(h)})
    >>> domain = kmtl.auxiliary.AdversarialTask(
    ...     "domain", "domain", keras.layers.Dense(1, activation="sigmoid"), features="trunk"
    ... )
    >>> helpers = kmtl.auxiliary.AuxiliaryTasks([domain])
    >>> both = helpers.attach(model)
    >>> rng = np.random.default_rng(0)
    >>> source = rng.normal(size=(6, 4)), {"digit": np.arange(6)}
    >>> target = rng.normal(size=(6, 4))
    >>> data = kmtl.auxiliary.domain_data(source, target, missing={"digit": -1})
    >>> arguments = helpers.compile_arguments({"digit": "crossentropy"}, missing={"digit": -1})
    >>> both.compile("adam", **arguments)
    >>> schedule = kmtl.callbacks.GradientReversalSchedule()
    >>> history = both.fit(*helpers.add_targets(data), callbacks=[schedule], verbose=0)
    >>> print(sorted(history.history))
    ['digit_loss', 'domain_accuracy', 'domain_loss', 'gradient_reversal_strength', 'loss']

    Differences from the paper: none in the objective. The weight, and more than two domains,
    are additions.

    Reference: Y. Ganin, V. Lempitsky (2015), "Unsupervised Domain Adaptation by
    Backpropagation", ICML, arXiv:1409.7495, equations (1) to (3) and figure 1.
    """

    def __init__(
        self,
        name: str,
        targets: Callable | str,
        head: Callable,
        features: str | keras.KerasTensor,
        strength: float = 1.0,
        weight: float | LearningRateSchedule = 1.0,
        loss="crossentropy",
        missing: float | None = None,
        metrics="accuracy",
    ):
        super().__init__(name, targets, head, loss, features, weight, missing, metrics)
        if loss == "crossentropy" and last_activation(head) is keras.activations.linear:
            raise ValueError(
                '`head` must end in probabilities where loss="crossentropy". '
                "Received: a last layer without activation"
            )
        self.strength = strength
        self._domains = None
        self._reversal = GradientReversal(strength, name=f"{name}_reversal")

    def build(self, model):
        hidden = self._reversal(features_of(model, self.features))
        output = self.head(hidden)
        if output.shape[-1] == 1 and last_activation(self.head) is keras.activations.softmax:
            raise ValueError(
                "`head` must have an output for each domain where it ends in a softmax, or one "
                f"with a sigmoid. Received: one output with a softmax for {self.name!r}"
            )
        self._domains = max(2, output.shape[-1] or 0)  # one output tells two apart
        return {self.name: marked(self.name, output)}

    def targets(self, x, y):
        targets = super().targets(x, y)
        labels, missing = targets[self.name], self.missing.get(self.name)
        known = labels if missing is None else labels[~is_missing(labels, missing)]
        if self._domains and not np.isin(known, np.arange(self._domains)).all():
            raise ValueError(
                f"`targets` must be domains from 0 to {self._domains - 1}, those that `head` can "
                f"tell apart. Received: {np.unique(known).tolist()}"
            )
        return targets
