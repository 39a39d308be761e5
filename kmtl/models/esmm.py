"""ESMM: conversion rates that are learned from all impressions, not from clicks alone."""

import keras

from kmtl.layers.logit_product import LogitProduct
from kmtl.models.hard_sharing import HardSharing
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import Stages, last_activation


@keras.saving.register_keras_serializable(package="kmtl")
class EntireSpaceModel(MultiTaskModel):
    """A `MultiTaskModel` with the heads of `ESMM`, whose `compile` knows their losses."""

    def compile(self, optimizer="rmsprop", loss=None, **kwargs) -> None:
        """As `MultiTaskModel.compile`.

        Args:
            optimizer: As in Keras. Defaults to `"rmsprop"`.
            loss: As in `MultiTaskModel`. Defaults to `None`, the paper's: binary cross-entropies
                of `ctr` and of `ctcvr`, from logits, and none of `cvr`.
            **kwargs: As in `MultiTaskModel`.
        """
        if loss is None:
            trained = keras.losses.BinaryCrossentropy(from_logits=True)
            loss = {"ctr": trained, "cvr": None, "ctcvr": trained}
        super().compile(optimizer=optimizer, loss=loss, **kwargs)


def ESMM(
    embedding: Stages, ctr_tower, cvr_tower, inputs=None, name: str | None = None
) -> MultiTaskModel:
    """Rates of clicks, and of purchases after a click, from one embedding and two towers.

    Choose it where the second of two steps is to be predicted but can be seen only after the
    first: trained on clicks alone, a conversion rate is biased for all that was not clicked, and
    has few examples. Here both towers learn from every impression.

    ```
    h     = embedding(x)
    a, b  = ctr_tower(h), cvr_tower(h)                     # logits of pCTR and of pCVR
    ctr, cvr, ctcvr = a, b, LogitProduct()([a, b])         # pCTCVR = pCTR * pCVR
    loss  = bce(click, sigmoid(ctr)) + bce(click and purchase, sigmoid(ctcvr))
    ```

    All three outputs are logits, so that nothing is lost where probabilities round to 0 or 1:
    `keras.ops.sigmoid` of them are the rates. Labels are
    `{"ctr": click, "ctcvr": click * purchase}`; `cvr` has none, and learns through the product
    only. `compile(optimizer)` takes the loss above by itself. All three heads are exported.

    Args:
        embedding: What both towers read: a Keras model, a layer, or a list of layers that are
            called one after the other. It is used as it is, not copied.
        ctr_tower: Layer, list of layers or model whose output is one logit, without activation:
            `(batch, 1)`. Copied.
        cvr_tower: The same. Copied.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`: the
            embedding's own inputs.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel` with the tasks `"ctcvr"`, `"ctr"` and `"cvr"`.

    Raises:
        ValueError: if a tower returns anything else than one logit for each example, its last
            layer has an activation, or `inputs` is missing where the embedding has none.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> embedding = [keras.layers.Embedding(100, 8), keras.layers.Flatten()]
    >>> user_and_item = keras.Input((2,), dtype="int32")
    >>> towers = [[keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]] * 2
    >>> model = kmtl.models.ESMM(embedding, *towers, inputs=user_and_item)
    >>> model.compile("adam")
    >>> click, bought = np.array([[1], [1], [0]]), np.array([[1], [0], [0]])
    >>> x = np.array([[3, 70], [5, 70], [5, 20]])
    >>> history = model.fit(x, {"ctr": click, "ctcvr": click * bought}, verbose=0)
    >>> print(sorted(model.predict(x, verbose=0)), sorted(history.history))
    ['ctcvr', 'ctr', 'cvr'] ['ctcvr_loss', 'ctr_loss', 'loss']

    Differences from the paper: logits all the way. Its losses are sums over impressions, here
    they are means. The fields of its features and the sizes of its towers are yours to make.

    Reference: X. Ma, L. Zhao, G. Huang, Z. Wang, Z. Hu, X. Zhu, K. Gai (2018), "Entire Space
    Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate", SIGIR,
    arXiv:1804.07931, section 2, equations 1 and 3.
    """
    model = HardSharing(embedding, {"ctr": ctr_tower, "cvr": cvr_tower}, inputs=inputs)
    logits = model.output
    for task, tower in (("ctr", ctr_tower), ("cvr", cvr_tower)):
        activation = last_activation(tower)
        if activation not in (None, keras.activations.linear):
            received = getattr(activation, "__name__", activation)
            raise ValueError(
                f"`{task}_tower` must return a logit, without activation. "
                f"Received: a last layer with activation={received!r}"
            )
    for task, y in logits.items():
        if tuple(y.shape[1:]) != (1,):
            raise ValueError(
                f"`{task}_tower` must return one logit for each example, (batch, 1). "
                f"Received: an output of shape {tuple(y.shape)}"
            )
    product = LogitProduct(name="ctcvr_logit")([logits["ctr"], logits["cvr"]])
    return EntireSpaceModel(model.input, {**logits, "ctcvr": product}, name=name)
