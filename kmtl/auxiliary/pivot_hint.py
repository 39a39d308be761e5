"""Hidden words as helper labels: does the sentence hold a positive, a negative pivot?"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import features_of, marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.models.graph import ancestors

SIGNS = ("positive", "negative")


class PivotHint(AuxiliaryTask):
    """Guesses from the rest of a sentence whether words of a known meaning were in it.

    Use it to take a classifier of sentences to another domain, of which there are sentences but
    no labels. Pivots mean the same everywhere ("excellent", "awful"); what stands around them is
    the domain's own way to say it ("a must read"). `kmtl.auxiliary.choose_pivots` finds them.

    ```
    x'         = x with mask_id in place of every pivot            # the second view
    z, z'      = features of x, features of x'
    main       = softmax(W [z; z'])                                # of your model
    y_positive = 1 if x holds a positive pivot else 0              # of x: before masking
    y_negative = 1 if x holds a negative pivot else 0
    loss       = L_main + weight * (bce(y_positive, sigmoid(u . z')) + bce(y_negative, ...))
    ```

    Your model has both views as inputs and makes `z'` of the second one alone.
    `kmtl.auxiliary.AuxiliaryTasks.add_targets` adds the view to the data; for serving, `inputs`
    does. `kmtl.auxiliary.domain_data` puts a labelled domain and others together.

    Args:
        name: Start of the outputs' names, `<name>_positive` and `<name>_negative`.
        positive: Ids of the positive pivots.
        negative: Ids of the negative ones.
        mask_id: Id that hides a pivot, such as that of unknown words.
        features: Name of the layer of your model that gives `z'`, or that tensor.
        weight: Factor of both losses. Defaults to `1.0`.
        words: Name of the input that holds the word ids; of data that are one array it is the
            name that they get. Defaults to `"words"`.
        masked: Name of the model's input for the second view. Defaults to `"masked"`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; for pivots that are none, positive and
            negative, or the mask; on building, for a model without the two inputs, and for
            features that see the words that are hidden.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> views = {name: keras.Input((6,), name=name, dtype="int32") for name in ("words", "masked")}
    >>> embed = keras.layers.Embedding(30, 8)
    >>> def sentence(view, name):
    ...     h = keras.layers.Conv1D(8, 3, padding="same", activation="relu")(embed(views[view]))
    ...     return keras.layers.GlobalMaxPooling1D(name=name)(h)
    >>> z = keras.layers.Concatenate()([sentence("words", "z"), sentence("masked", "z_hint")])
    >>> model = keras.Model(views, {"mood": keras.layers.Dense(1, activation="sigmoid")(z)})
    >>> hint = kmtl.auxiliary.PivotHint("pivot", [7], [9], mask_id=1, features="z_hint")
    >>> helpers = kmtl.auxiliary.AuxiliaryTasks([hint])
    >>> both = helpers.attach(model)
    >>> books = np.array([[2, 7, 3, 0, 0, 0], [9, 4, 2, 0, 0, 0]]), {"mood": np.array([1.0, 0.0])}
    >>> phones = np.array([[5, 6, 7, 9, 0, 0], [5, 8, 6, 0, 0, 0]])
    >>> data = kmtl.auxiliary.domain_data(books, phones, missing={"mood": -1.0}, name="domain")
    >>> x, y = helpers.add_targets((data[0], {"mood": data[1]["mood"]}))
    >>> arguments = helpers.compile_arguments({"mood": "crossentropy"}, missing={"mood": -1.0})
    >>> both.compile("adam", **arguments)
    >>> print(sorted(both.fit(x, y, verbose=0).history))
    ['loss', 'mood_loss', 'pivot_negative_loss', 'pivot_positive_loss']
    >>> print(hint.inputs(phones)["masked"].tolist())
    [[5, 6, 1, 1, 0, 0], [5, 8, 6, 0, 0, 0]]

    Differences from the paper: it alternates batches of the labelled domain, which train all,
    and of the other one, which train what makes `z'`; here both are in one batch, with the main
    label missing in the other domain, so that the steps are those of the sum.

    Reference: J. Yu, J. Jiang (2016), "Learning Sentence Embeddings with Auxiliary Tasks for
    Cross-Domain Sentiment Classification", EMNLP, sections 3 and 4.
    """

    def __init__(
        self,
        name: str,
        positive: Sequence[int],
        negative: Sequence[int],
        mask_id: int,
        features: str | keras.KerasTensor,
        weight: float | LearningRateSchedule = 1.0,
        words: str = "words",
        masked: str = "masked",
    ):
        super().__init__(name, None, None, None, features, weight)
        self.positive, self.negative = sorted({*positive}), sorted({*negative})
        pivots = {*self.positive, *self.negative}
        one_sign = len(pivots) == len(self.positive) + len(self.negative)
        if not self.positive or not self.negative or not one_sign or mask_id in pivots:
            raise ValueError(
                "There must be positive and negative pivots, none of them both, nor `mask_id`. "
                f"Received: positive={positive}, negative={negative}, mask_id={mask_id}"
            )
        self.mask_id, self.words, self.masked = mask_id, words, masked
        self._outputs = {sign: f"{name}_{sign}" for sign in SIGNS}
        self.losses = dict.fromkeys(self._outputs.values(), "binary_crossentropy")
        self.weights = dict.fromkeys(self.losses, weight)

    def build(self, model):
        views = model.input if isinstance(model.input, Mapping) else {}
        if not {self.words, self.masked} <= {*views}:
            raise ValueError(
                f"The model's inputs must be a dict with {self.words!r} and {self.masked!r}. "
                f"Received: {sorted(views) or model.input}"
            )
        hidden = features_of(model, self.features)
        if any(x is views[self.words] for x in ancestors([hidden])):
            raise ValueError(
                f"`features` must be made of {self.masked!r} alone, or the pivots are seen. "
                f"Received: features={self.features!r}, made of {self.words!r}, too"
            )
        return {
            output: marked(
                output, keras.layers.Dense(1, activation="sigmoid", name=f"{output}_head")(hidden)
            )
            for output in self._outputs.values()
        }

    def targets(self, x, y):
        ids = self._ids(x)
        pivots = {"positive": self.positive, "negative": self.negative}
        return {
            output: np.isin(ids, pivots[sign]).any(axis=1, keepdims=True).astype("float32")
            for sign, output in self._outputs.items()
        }

    def inputs(self, x):
        """The inputs with the second view beside the words.

        Args:
            x: Word ids, `(N, steps)`, or a dict of inputs with them.
        """
        ids = self._ids(x)
        hidden = np.isin(ids, [*self.positive, *self.negative])
        others = x if isinstance(x, Mapping) else {}
        view = np.where(hidden, self.mask_id, ids).astype(ids.dtype)
        return {**others, self.words: ids, self.masked: view}

    def _ids(self, x):
        if isinstance(x, Mapping) and self.words not in x:
            raise ValueError(
                f"The inputs must be word ids or hold {self.words!r}. Received: {sorted(x)}"
            )
        ids = np.asarray(x[self.words] if isinstance(x, Mapping) else x)
        if ids.ndim != 2:
            raise ValueError(
                f"Word ids must be of shape (N, steps). Received: {ids.shape} for {self.name!r}"
            )
        return ids
