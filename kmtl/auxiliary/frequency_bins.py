"""How frequent each word is, as a helper of a tagger."""

from collections.abc import Sequence

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import features_of, marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.word_ids import NO_LABEL, word_ids


class FrequencyBinTask(AuxiliaryTask):
    """Predicts the order of magnitude of each word's frequency.

    Use it for taggers that meet many rare words: the features of rare words and those of common
    ones are then kept apart, so that common words shape the others' less. It needs no labels.

    ```
    bin(w)  = floor(log(counts[w]) / log(base))        # 0 for 1 to base - 1, 1 from base on, ...
    logits  = W h[t] + b
    loss    = L_main + weight * mean over t of -log softmax(logits)[bin(word[t])]
    ```

    Padding, and words that were never counted, have no label.

    Args:
        name: The task's name, new to the model.
        counts: How often each word id is in the training data, such as
            `numpy.bincount(x.ravel(), minlength=vocabulary_size)`. Count the training data only.
        features: Name of a layer of your model with features for each step, or that tensor.
        base: What one bin has more of than the one before, above 1. Defaults to `10`.
        weight: Factor of the loss. Defaults to `1.0`.
        words: Name of the input that holds the word ids, `(N, steps)`. Defaults to `None`, the
            input is one array.
        padding: The id that is no word. Defaults to `0`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; for counts that are not whole numbers of at
            least 0 or all fall into one bin, for a base of at most 1, and for ids without a
            count.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,), dtype="int32")
    >>> h = keras.layers.Embedding(5, 8)(x)
    >>> h = keras.layers.LSTM(6, return_sequences=True, name="reader")(h)
    >>> model = keras.Model(x, {"pos": keras.layers.Dense(3, activation="softmax")(h)})
    >>> task = kmtl.auxiliary.FrequencyBinTask("frequency", [900, 1000, 99, 9, 0], "reader")
    >>> both = kmtl.auxiliary.AuxiliaryTasks([task]).attach(model)
    >>> print(both.output["frequency"].shape)
    (None, 4, 4)
    >>> print(task.targets(np.array([[1, 2, 3, 4], [3, 3, 0, 0]]), {})["frequency"].tolist())
    [[3, 1, 0, -1], [0, 0, -1, -1]]

    Differences from the paper: Plank et al. take the natural logarithm, `base=numpy.e`; 10 makes
    fewer and more even bins. Their text speaks of the next word's frequency, their formula of
    the word's own, which is taken here.

    References:

    - B. Plank, A. Soegaard, Y. Goldberg (2016), "Multilingual Part-of-Speech Tagging with
      Bidirectional Long Short-Term Memory Models and Auxiliary Loss", ACL, arXiv:1604.05529,
      section 2: a = int(log(freq(w))).
    - H. Martinez Alonso, B. Plank (2017), "When is multitask learning effective? Semantic
      sequence prediction under varying data conditions", EACL, arXiv:1612.02251, its FREQBIN.
    """

    def __init__(
        self,
        name: str,
        counts: Sequence[int],
        features: str | keras.KerasTensor,
        base: float = 10,
        weight: float | LearningRateSchedule = 1.0,
        words: str | None = None,
        padding: int = 0,
    ):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        super().__init__(name, None, None, loss, features, weight, NO_LABEL)
        if not base > 1:
            raise ValueError(f"`base` must be above 1. Received: base={base}")
        self.counts, self.base = np.asarray(counts), base
        self.words, self.padding = words, padding
        self._bins = self._bins_of_words()

    @property
    def num_bins(self) -> int:
        """How many bins there are, empty ones between others included."""
        return int(self._bins.max()) + 1

    def build(self, model):
        head = keras.layers.Dense(self.num_bins, name=f"{self.name}_head")
        return {self.name: marked(self.name, head(features_of(model, self.features)))}

    def targets(self, x, y):
        ids = word_ids(x, self.words, self.name, len(self.counts))
        return {self.name: np.where(ids == self.padding, NO_LABEL, self._bins[ids])}

    def _bins_of_words(self):
        counts = self.counts
        if counts.ndim != 1 or not (counts >= 0).all() or not (counts % 1 == 0).all():
            raise ValueError(
                "`counts` must hold a whole number of at least 0 for each word id. "
                f"Received: counts={counts.tolist()}"
            )
        # Compared with powers, as logarithms of powers are not exact: log(1000, 10) is below 3.
        powers = [self.base]
        while powers[-1] <= counts.max(initial=0):
            powers.append(powers[-1] * self.base)
        bins = np.searchsorted(powers, counts, side="right").astype("int32")
        bins[counts == 0] = NO_LABEL
        words = np.arange(len(counts)) != self.padding
        if len(set(bins[words].tolist()) - {NO_LABEL}) < 2:
            raise ValueError(
                "`counts` must fall into two bins or more, or there is nothing to learn. "
                f"Received: base={self.base}, counts up to {counts.max(initial=0)}"
            )
        bins[~words] = NO_LABEL
        return bins
