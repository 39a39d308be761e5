"""Every public class through the checks of its kind, on both backends.

A class without a row fails the suite, and so does a row of a class that is gone.
"""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl.testing import check_gradient_weighting, check_layer, check_regularizer, check_weighting

pytestmark = pytest.mark.both_backends

L = kmtl.layers

# class, constructor arguments, input shapes, output shapes
LAYERS = [
    (L.CRF, {"num_tags": 3}, (5, 4), (10, 3)),
    (
        L.CRF,
        {"num_tags": 2, "use_boundaries": False, "transition_initializer": "glorot_uniform"},
        (5, 4),
        (9, 2),
    ),
    (L.CrossStitch, {"num_tasks": 2}, [(6,), (6,)], [(6,), (6,)]),
    (
        L.CrossStitch,
        {"per_channel": False, "same_init": 0.7, "different_init": 0.1},
        [(5, 4)] * 3,
        [(5, 4)] * 3,
    ),
    (L.CrossStitch, {"lr_multiplier": 10.0}, [(4, 4, 3)] * 2, [(4, 4, 3)] * 2),
    (L.SluiceUnit, {"num_tasks": 2}, [(6,), (6,)], [(6,), (6,)]),
    (L.SluiceUnit, {"num_subspaces": 3, "init": "balanced"}, [(5, 6)] * 3, [(5, 6)] * 3),
    (L.SluiceUnit, {"init": "identity"}, [(4, 4, 6)] * 2, [(4, 4, 6)] * 2),
    (L.SluiceUnit, {"same_init": 0.8}, [(4, 4, 6)] * 2, [(4, 4, 6)] * 2),
    (L.LayerStitch, {}, [(6,)] * 3, (6,)),
    (L.LayerStitch, {"init": "last", "last_init": 0.8}, [(5, 4)] * 2, (5, 4)),
    (L.LayerStitch, {"init": "last"}, [(4, 4, 3)] * 2, (4, 4, 3)),
    (L.GradientReversal, {}, (6,), (6,)),
    (L.GradientReversal, {"strength": 0.5}, (5, 4), (5, 4)),
    (L.TaskStackedDense, {"units": 4, "num_tasks": 3}, (6,), [(4,)] * 3),
    (
        L.TaskStackedDense,
        {"units": 4, "num_tasks": 2, "activation": "softmax", "bias_initializer": "normal"},
        [(5, 6)] * 2,
        [(5, 4)] * 2,
    ),
    (
        L.TaskStackedDense,
        {"units": 2, "num_tasks": 3, "use_bias": False, "kernel_regularizer": "l2"},
        (4, 4, 3),
        [(4, 4, 2)] * 3,
    ),
    (L.TaskBatchNormalization, {"num_sources": 3}, [(6,), ()], (6,)),
    (
        L.TaskBatchNormalization,
        {"num_sources": 2, "axis": 1, "momentum": 0.9, "shared_affine": True},
        [(4, 5, 3), (1,)],
        (4, 5, 3),
    ),
    (
        L.TaskBatchNormalization,
        {"num_sources": 2, "epsilon": 0.1, "center": False, "scale": False},
        [(5, 4), (1,)],
        (5, 4),
    ),
    (L.MMoE, {"num_experts": 3, "units": 4, "num_tasks": 2}, (6,), [(4,)] * 2),
    (
        L.MMoE,
        {
            "num_experts": 4,
            "units": [5, 4],
            "num_tasks": 3,
            "activation": "tanh",
            "gate_dropout": 0.3,
        },
        [(5, 6), (1, 3)],
        [(5, 4)] * 3,
    ),
    (
        L.MMoE,
        {
            "num_experts": 3,
            "units": 4,
            "num_tasks": 2,
            "gate": L.DSelectKGate(num_experts=3, num_selected=2),
        },
        (4, 4, 3),
        [(4, 4, 4)] * 2,
    ),
    (
        L.CGC,
        {"shared_experts": 2, "task_experts": [1, 0, 2], "units": 4, "num_tasks": 3},
        (6,),
        [(4,)] * 3,
    ),
    (
        L.CGC,
        {"shared_experts": 0, "task_experts": 1, "units": [5, 4], "num_tasks": 2},
        [(5, 6)] * 2,
        [(5, 4)] * 2,
    ),
    (
        L.CGC,
        {
            "shared_experts": 1,
            "task_experts": 2,
            "units": 4,
            "num_tasks": 2,
            "output_shared": True,
            "gate": L.DSelectKGate(num_experts=3, num_selected=1, per_example=False),
        },
        [(6,)] * 3,
        [(4,)] * 3,
    ),
    (
        L.PLE,
        {
            "levels": [
                {"shared_experts": 2, "task_experts": [1, 2], "units": 5},
                {"shared_experts": 1, "task_experts": 1, "units": [5, 4]},
            ],
            "num_tasks": 2,
        },
        (6,),
        [(4,)] * 2,
    ),
    (
        L.PLE,
        {
            "levels": [{"shared_experts": 2, "task_experts": 1, "units": 4}] * 2,
            "num_tasks": 2,
            "activation": "tanh",
            "gate": L.DSelectKGate(num_experts=3, num_selected=2, gamma=2.0),
        },
        (5, 6),
        [(5, 4)] * 2,
    ),
    (L.DSelectKGate, {"num_experts": 4, "num_selected": 2}, (6,), (4,)),
    (
        L.DSelectKGate,
        {"num_experts": 5, "num_selected": 1, "gamma": 0.5, "entropy": 0.1},
        (5, 6),
        (5, 5),
    ),
    (
        L.DSelectKGate,
        {"num_experts": 3, "num_selected": 2, "entropy": 0.0, "per_example": False},
        (4, 4, 3),
        (4, 4, 3),
    ),
    (L.FactorizedDense, {"units": 5, "num_tasks": 3}, (4,), [(5,)] * 3),
    (
        L.FactorizedDense,
        {"units": 5, "num_tasks": 2, "method": "tt", "rank": 2, "activation": "relu"},
        [(7, 4)] * 2,
        [(7, 5)] * 2,
    ),
    (
        L.FactorizedDense,
        {"units": 5, "num_tasks": 2, "init_from": np.ones((4, 5, 2)), "use_bias": False},
        (4,),
        [(5,)] * 2,
    ),
    (
        L.FactorizedConv2D,
        {"filters": 5, "kernel_size": 3, "num_tasks": 2, "strides": 2, "padding": "same"},
        (8, 8, 4),
        [(4, 4, 5)] * 2,
    ),
    (
        L.FactorizedConv2D,
        {"filters": 5, "kernel_size": (3, 2), "num_tasks": 2, "method": "tt", "rank": (2, 3, 4, 2)},
        [(8, 8, 4)] * 2,
        [(6, 7, 5)] * 2,
    ),
    (
        L.FactorizedConv2D,
        {
            "filters": 5,
            "kernel_size": 3,
            "num_tasks": 3,
            "method": "laf",
            "kernel_regularizer": "l2",
        },
        (8, 8, 4),
        [(6, 6, 5)] * 3,
    ),
    (L.NDDR, {}, [(6,), (6,)], [(6,), (6,)]),
    (
        L.NDDR,
        {"same_init": 0.8, "different_init": 0.05, "activation": "tanh"},
        [(4, 4, 3)] * 3,
        [(4, 4, 3)] * 3,
    ),
    (L.NDDR, {"activation": None, "batch_norm": False}, [(5, 4)] * 2, [(5, 4)] * 2),
    (L.AttentionGate, {}, [(4, 4, 3), (4, 4, 5)], (4, 4, 5)),
    (L.AttentionGate, {"hidden": 2, "kernel_initializer": "he_normal"}, [(6,), (4,), (3,)], (4,)),
    (L.SharedPlusSpecificDense, {"units": 4, "num_tasks": 3}, (6,), [(4,)] * 3),
    (
        L.SharedPlusSpecificDense,
        {
            "units": 4,
            "num_tasks": 2,
            "activation": "softmax",
            "use_bias": False,
            "specific_initializer": "glorot_uniform",
            "shared_regularizer": "l2",
            "specific_regularizer": "l1",
        },
        [(5, 6)] * 2,
        [(5, 4)] * 2,
    ),
    (L.LogitProduct, {}, [(1,), (1,)], (1,)),
    (L.ConvexStitch, {}, [(4, 4, 3)] * 3, (4, 4, 3)),
    (L.TrainingOnly, {}, (5, 4), (5, 4)),
    (L.LabelEmbedding, {"dim": 3}, (5, 4), (5, 3)),
    (L.LabelEmbedding, {"dim": 2, "mode": "hard"}, (4,), (2,)),
    (L.DependencyHead, {"num_labels": 3}, (5, 4), (5, 18)),
    (L.DependencyHead, {"num_labels": 1, "kernel_initializer": "he_normal"}, (4, 6), (4, 5)),
    (L.SentencePair, {}, [(5, 4), (6, 4)], (8,)),
    (L.SentencePair, {"signed": True}, [(5, 4), (5, 4), (3,), (2,)], (13,)),
]

# class, constructor arguments, shape of a kernel
REGULARIZERS = [
    (kmtl.regularizers.OrthogonalSubspaces, {}, (4, 6)),
    (kmtl.regularizers.OrthogonalSubspaces, {"strength": 0.5, "num_subspaces": 3}, (3, 3, 2, 6)),
    (kmtl.regularizers.OrthogonalSubspaces, {"num_gates": 4}, (5, 16)),
    (kmtl.regularizers.SoftSharing, {}, (4, 3)),
    (
        kmtl.regularizers.SoftSharing,
        {"mode": "pairwise", "affinity": [[0, 2], [2, 0]], "norm": "l1", "task_axis": 0},
        (2, 3, 3, 4),
    ),
    (kmtl.regularizers.TensorNormalPrior, {}, (4, 2, 3)),
    (
        kmtl.regularizers.TensorNormalPrior,
        {
            "strength": 0.5,
            "learn": ["feature", "task"],
            "update_every": 1,
            "epsilon": 0.01,
            "normalize": False,
            "task_axis": 1,
        },
        (4, 3, 2),
    ),
    (kmtl.regularizers.TensorTraceNorm, {}, (3, 3, 2, 6)),
    (
        kmtl.regularizers.TensorTraceNorm,
        {"strength": 0.5, "method": "tucker", "mode_weights": [0.2, 0.3, 0.5], "task_axis": 1},
        (4, 3, 6),
    ),
    (kmtl.regularizers.TensorTraceNorm, {"method": "tt", "tolerance": 0.01}, (4, 3, 6)),
    (kmtl.regularizers.Anchor, {"strength": 0.5}, (4, 3)),
]

# class, constructor arguments
LOSSES = [
    (kmtl.losses.CRFLoss, {}),
    (kmtl.losses.CRFLoss, {"missing": -2}),
    (kmtl.losses.MaskedMultiLabelLoss, {}),
    (
        kmtl.losses.MaskedMultiLabelLoss,
        {"positive_weight": [2.0, 0.5], "from_logits": False, "normalize": "global", "missing": -1},
    ),
    (kmtl.losses.HintLoss, {"kind": "odd"}),
    (kmtl.losses.HintLoss, {"kind": "range", "low": -1.0, "high": 2.0}),
]
METRICS = [
    (kmtl.metrics.CRFAccuracy, {}),
    (kmtl.metrics.CRFAccuracy, {"missing": -2}),
    (kmtl.metrics.MaskedMeanAUC, {"num_tasks": 3}),
    (
        kmtl.metrics.MaskedMeanAUC,
        {
            "num_tasks": 3,
            "num_thresholds": 50,
            "reduction": "median",
            "from_logits": True,
            "missing": -1,
        },
    ),
]

# class, constructor arguments
WEIGHTINGS = [
    (kmtl.weighting.UncertaintyWeighting, {}),
    (kmtl.weighting.UncertaintyWeighting, {"regularizer": "log1p", "initial_log_var": -0.5}),
    (
        kmtl.weighting.UncertaintyWeighting,
        {"kinds": {"a": "laplace", "b": "classification", "c": "regression"}, "clip": (-5.0, 5.0)},
    ),
    (kmtl.weighting.StaticWeights, {"task_weights": {"a": 0.5, "c": 0.0}}),
    (
        kmtl.weighting.ScheduledWeights,
        {"task_weights": {"a": keras.optimizers.schedules.CosineDecay(0.5, 9), "c": 0.0}},
    ),
    (kmtl.weighting.DynamicWeightAverage, {}),
    (kmtl.weighting.DynamicWeightAverage, {"temperature": 0.5, "window": 25}),
    (kmtl.weighting.RandomLossWeighting, {"seed": 1}),
    (kmtl.weighting.RandomLossWeighting, {"distribution": "random_normal", "seed": 1}),
    (kmtl.weighting.GeometricLoss, {}),
    (kmtl.weighting.ScaleInvariant, {}),
    (kmtl.weighting.IMTLL, {}),
    (kmtl.weighting.FAMO, {}),
    (kmtl.weighting.FAMO, {"weight_lr": 0.1, "gamma": 0.0, "min_losses": {"b": 0.5}}),
    (kmtl.weighting.SmoothTchebycheff, {}),
    (
        kmtl.weighting.SmoothTchebycheff,
        {"mu": 0.1, "warmup_epoch": 0, "preference": {"a": 2.0}, "ideal": {"b": 0.5}},
    ),
    (kmtl.weighting.Tchebycheff, {"preference": {"a": 2.0}, "ideal": {"b": 0.5}}),
    (kmtl.weighting.PBI, {"preference": {"a": 2.0}, "theta": 1.0, "ideal": {"b": 0.5}}),
]

# class, constructor arguments, properties that the class claims (see check_gradient_weighting)
GRADIENT_WEIGHTINGS = [
    (kmtl.weighting.PCGrad, {"seed": 1, "reduction": "mean"}, ["homogeneous"]),
    (kmtl.weighting.AlignedMTL, {"scale_mode": "median"}, ["permutation", "homogeneous"]),
    (kmtl.weighting.CAGrad, {"c": 0.5, "rescale": 2}, ["permutation", "homogeneous"]),
    (
        kmtl.weighting.FairGrad,
        {"alpha": 1.0},
        ["non_conflicting", "permutation", "scale_invariant", "stationary"],
    ),
    (kmtl.weighting.FairGrad, {"alpha": 2.0}, ["non_conflicting", "permutation", "stationary"]),
    # More tasks than dimensions leave an update of zero; its rounding errors have no properties.
    (kmtl.weighting.IMTL, {"weight_lr": 0.01}, []),
    (kmtl.weighting.IMTLG, {}, []),
    (kmtl.weighting.MGDA, {}, ["non_conflicting", "permutation", "homogeneous", "stationary"]),
    (
        kmtl.weighting.MGDA,
        {"normalize": "l2"},
        ["non_conflicting", "permutation", "homogeneous", "scale_invariant", "stationary"],
    ),
    (kmtl.weighting.MGDA, {"normalize": "loss+"}, ["non_conflicting", "homogeneous"]),
    (kmtl.weighting.MoCo, {"beta": 1.0, "gamma": 0.5, "rho": 0.1}, ["permutation"]),
    (kmtl.weighting.MoDo, {"gamma": 0.1, "rho": 0.0}, ["permutation"]),
    (
        kmtl.weighting.NashMTL,
        {"update_every": 2, "max_norm": 1.0},
        ["non_conflicting", "permutation", "scale_invariant", "stationary"],
    ),
    (kmtl.weighting.ConFIG, {}, ["permutation", "homogeneous", "linear_in_scales"]),
    (
        kmtl.weighting.DBMTL,
        {"beta": 0.5, "beta_sigma": 0.5},
        ["permutation", "homogeneous", "scale_invariant"],
    ),
    (kmtl.weighting.DualProj, {}, ["non_conflicting", "permutation", "homogeneous"]),
    (kmtl.weighting.GradDrop, {"leak": 0.2, "seed": 1}, ["permutation", "homogeneous"]),
    (
        kmtl.weighting.GradNorm,
        {"alpha": 0.5, "scale_heads": False},
        ["homogeneous", "linear_in_scales"],
    ),
    (kmtl.weighting.GradVac, {"beta": 0.5, "seed": 1}, ["homogeneous", "linear_in_scales"]),
    (kmtl.weighting.SDMGrad, {}, []),
    (
        kmtl.weighting.SDMGrad,
        {"strength": 0.5, "steps": 10, "weight_lr": 0.5},
        ["permutation", "homogeneous"],
    ),
    (
        kmtl.weighting.Krum,
        {"num_byzantine": 0, "num_selected": 2},
        ["permutation", "homogeneous"],
    ),
    (kmtl.weighting.TrimmedMean, {"trim_number": 0}, ["permutation", "homogeneous"]),
    (
        kmtl.weighting.UPGrad,
        {},
        ["non_conflicting", "permutation", "homogeneous", "linear_in_scales"],
    ),
    (
        kmtl.weighting.ExcessMTL,
        {"step_size": 0.1, "scale_heads": False},
        ["permutation", "homogeneous", "linear_in_scales"],
    ),
]


def label(value):
    return value.__name__ if inspect.isclass(value) else str(value).replace(" ", "")


@keras.saving.register_keras_serializable()
class FloatingSource(L.TaskBatchNormalization):
    """Reads `source` from floats, as all inputs are that `check_layer` makes."""

    def call(self, inputs, training=None):
        return super().call([inputs[0], ops.cast(inputs[1], "int32")], training=training)

    def compute_output_spec(self, inputs, *args, **kwargs):
        inputs = [inputs[0], keras.KerasTensor(inputs[1].shape, "int32")]
        return super().compute_output_spec(inputs, *args, **kwargs)


def with_source(shape, rng):
    features = len(shape) > 1 and shape[1:] != (1,)
    return (rng.normal(size=shape) if features else rng.integers(0, 2, shape)).astype("float32")


@pytest.mark.parametrize(("cls", "kwargs", "inputs", "outputs"), LAYERS, ids=label)
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_layer(cls, kwargs, inputs, outputs):
    if cls is L.TaskBatchNormalization:
        check_layer(FloatingSource, kwargs, inputs, outputs, make_inputs=with_source)
    else:
        check_layer(cls, kwargs, inputs, outputs)


@pytest.mark.parametrize(("cls", "kwargs", "shape"), REGULARIZERS, ids=label)
def test_regularizer(cls, kwargs, shape):
    check_regularizer(cls, kwargs, shape)


@pytest.mark.parametrize(("cls", "kwargs"), LOSSES + METRICS, ids=label)
def test_loss_and_metric(cls, kwargs):
    made = cls(**kwargs)
    for key, value in kwargs.items():
        assert getattr(made, key) == value
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is cls
    # As text, since NaN does not equal itself.
    assert json.dumps(again.get_config()) == json.dumps(made.get_config())


@pytest.mark.parametrize(("cls", "kwargs"), WEIGHTINGS, ids=label)
def test_weighting(cls, kwargs):
    check_weighting(cls, kwargs, tasks=("a", "b", "c"))


@pytest.mark.parametrize(("cls", "kwargs", "properties"), GRADIENT_WEIGHTINGS, ids=label)
def test_gradient_weighting(cls, kwargs, properties):
    check_gradient_weighting(cls, kwargs, properties)


@pytest.mark.parametrize(
    ("room", "base", "rows"),
    [
        (kmtl.layers, keras.layers.Layer, LAYERS),
        (kmtl.regularizers, keras.regularizers.Regularizer, REGULARIZERS),
        (kmtl.losses, keras.losses.Loss, LOSSES),
        (kmtl.metrics, keras.metrics.Metric, METRICS),
        (kmtl.weighting, kmtl.weighting.TaskWeighting, WEIGHTINGS + GRADIENT_WEIGHTINGS),
    ],
    ids=["layers", "regularizers", "losses", "metrics", "weighting"],
)
def test_every_public_class_has_a_row(room, base, rows):
    public = {getattr(room, name) for name in room.__all__}
    classes = {c for c in public if inspect.isclass(c) and issubclass(c, base)}
    # What other classes of the room derive from is a base.
    classes -= {parent for c in classes for parent in c.__mro__[1:]} | {base}
    assert classes == {row[0] for row in rows}
