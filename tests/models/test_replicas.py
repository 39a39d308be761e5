"""Two replicas give the same weights as one with the same global batch."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6, 6, 1)).astype("float32")
# Labels of "depth" are absent from the first rows, so that in some steps one replica has none.
Y = {
    "depth": np.where(np.arange(32) % 16 < 8, np.nan, RNG.normal(size=32)).astype("float32"),
    "seg": np.where(RNG.random(32) < 0.3, -1, RNG.integers(0, 3, size=32)),
}


def stages():
    return [
        [layers.Conv2D(4, 3, padding="same", activation="tanh")],
        [layers.GlobalAveragePooling2D(), layers.Dense(4, activation="tanh")],
    ]


def heads():
    return {"depth": layers.Dense(1), "seg": layers.Dense(3, activation="softmax")}


def widened(model):
    model.widen([["depth"], ["seg"]])
    return model


NETWORKS = {
    "branching": lambda: widened(kmtl.models.BranchingModel(stages(), heads(), inputs=(6, 6, 1))),
    "hard_sharing": lambda: kmtl.models.HardSharing(
        [layer for stage in stages() for layer in stage], heads(), inputs=(6, 6, 1)
    ),
    "cross_stitch": lambda: kmtl.models.CrossStitchNetwork(stages(), heads(), inputs=(6, 6, 1)),
    "sluice": lambda: kmtl.models.SluiceNetwork(
        [stages()[0], [*stages()[1], layers.Reshape((1, 1, 4))]],
        heads(),
        readout=layers.GlobalAveragePooling2D,
        inputs=(6, 6, 1),
    ),
    "factorized": lambda: kmtl.models.FactorizedNetwork(
        [layer for stage in stages() for layer in stage], heads(), inputs=(6, 6, 1)
    ),
    "mtan": lambda: kmtl.models.MTAN(
        [(stages()[0], layers.Conv2D(4, 3, padding="same", activation="tanh"))],
        {task: [layers.GlobalAveragePooling2D(), head] for task, head in heads().items()},
        inputs=(6, 6, 1),
    ),
    "soft_ordering": lambda: kmtl.models.SoftOrdering(
        [layers.Dense(4, activation="tanh") for _ in range(2)],
        heads(),
        [layer for stage in stages() for layer in stage],
        inputs=(6, 6, 1),
    ),
    "layerwise": lambda: kmtl.models.LayerwiseSupervision(
        stages(),
        {**heads(), "depth": [layers.GlobalAveragePooling2D(), layers.Dense(1)]},
        {"depth": 1, "seg": 2},
        inputs=(6, 6, 1),
    ),
    "joint_many_task": lambda: kmtl.models.JointManyTaskModel(
        [
            (task, layers.Conv2D(4, 3, padding="same"), [layers.GlobalAveragePooling2D(), head])
            for task, head in heads().items()
        ],
        inputs=(6, 6, 1),
    ),
}


def copy_of(weighting):
    """A rule keeps the state of one model."""
    if isinstance(weighting, kmtl.weighting.TaskWeighting):
        return type(weighting).from_config(weighting.get_config())
    return weighting


def nightly(*values):
    return pytest.param(*values, marks=pytest.mark.nightly)


def train(network, weighting, penalties=None):
    keras.utils.set_random_seed(3)
    model = NETWORKS[network]()
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        loss={"depth": "mse", "seg": "sparse_categorical_crossentropy"},
        metrics={"seg": ["accuracy"], "depth": ["mae"]},
        weighting=copy_of(weighting),
        missing={"depth": float("nan"), "seg": -1},
        penalties=penalties,
    )
    # 12 rows do not fill the last batch of 32: replicas get unequal shares there.
    history = model.fit(X, Y, batch_size=20, epochs=3, shuffle=False, verbose=0).history
    logs = model.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)
    return history, logs, model.get_weights()


@pytest.mark.parametrize(
    ("network", "weighting"),
    [
        ("hard_sharing", None),
        ("branching", "uncertainty"),
        ("branching", kmtl.weighting.PCGrad(seed=1)),
        nightly("hard_sharing", "uncertainty"),
        nightly("cross_stitch", None),
        nightly("cross_stitch", "uncertainty"),
        ("sluice", "uncertainty"),
        ("factorized", "uncertainty"),
        nightly("mtan", None),
        ("mtan", kmtl.weighting.PCGrad(seed=1)),
        ("soft_ordering", "uncertainty"),
        ("layerwise", "uncertainty"),
        nightly("joint_many_task", None),
        nightly("hard_sharing", kmtl.weighting.PCGrad(seed=1)),
        nightly("hard_sharing", kmtl.weighting.PCGrad(seed=1, scope="parameters")),
        (
            "hard_sharing",
            kmtl.weighting.PCGrad(seed=1, scope="last_shared", scale_heads=True),
        ),
        ("cross_stitch", kmtl.weighting.PCGrad(seed=1)),
    ],
    ids=str,
)
def test_two_replicas_equal_one(network, weighting, mirrored):
    one = train(network, weighting)
    with mirrored.scope():
        assert_equal(train(network, weighting), one)


@pytest.mark.parametrize("weighting", [nightly(None), "mgda"])
@pytest.mark.parametrize(
    "regularizer",
    [kmtl.regularizers.SoftSharing(0.3), kmtl.regularizers.TensorNormalPrior(0.1, update_every=2)],
    ids=["soft_sharing", "tensor_normal_prior"],
)
def test_penalties_across_tasks(regularizer, weighting, mirrored):
    def penalties():
        return [kmtl.regularizers.AcrossTasks(regularizer, "{task}_conv2d*")]

    one = train("cross_stitch", weighting, penalties())
    with mirrored.scope():
        assert_equal(train("cross_stitch", weighting, penalties()), one)


def assert_equal(two, one):
    (history2, logs2, weights2), (history, logs, weights) = two, one
    for a, b in zip(weights, weights2, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    for name in history:
        np.testing.assert_allclose(history2[name], history[name], rtol=1e-4, err_msg=name)
    for name in logs:
        np.testing.assert_allclose(logs2[name], logs[name], rtol=1e-4, err_msg=name)
