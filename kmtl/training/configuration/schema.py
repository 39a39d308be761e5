"""What a configuration may hold. Values are checked as far as they can be without TensorFlow."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kmtl.training.configuration.schema_data import Data
from kmtl.training.configuration.schema_values import (
    AtLeast0,
    AtLeast1,
    EntryPoint,
    OptionalSpecification,
    Part,
    Specification,
    ending_in,
)


class Head(Part):
    """A task's own layers: a list, or the width of a single dense one."""

    layers: list[Any] | None = Field(None, min_length=1)
    units: AtLeast1 | None = None
    activation: str | None = None

    @model_validator(mode="after")
    def _one_form(self):
        if (self.layers is None) == (self.units is None):
            raise ValueError("must have either `layers` or `units`")
        if self.layers is not None and self.activation is not None:
            raise ValueError("must have `activation` beside `units` only; layers have their own")
        return self


class LayeredNetwork(Part):
    """A network of kmtl over a trunk and heads."""

    kind: Literal["hard_sharing", "cross_stitch", "sluice", "factorized"]
    trunk: list[Any] = Field(min_length=1)
    heads: dict[str, Head] = Field(min_length=1)
    arguments: dict[str, Any] = {}


class OwnNetwork(Part):
    """A function that returns a `kmtl.MultiTaskModel`."""

    kind: Literal["python"]
    function: EntryPoint
    arguments: dict[str, Any] = {}


class EarlyStopping(Part):
    """Arguments of Keras's callback; the best weights are kept."""

    monitor: str = "val_loss"
    patience: AtLeast0 = 5
    min_delta: float = 0.0
    mode: Literal["auto", "min", "max"] = "auto"


def _interval(value):
    if value != "epoch" and (type(value) is not int or value < 1):
        raise ValueError('must be "epoch" or a number of steps of at least 1')
    return value


class Backup(Part):
    """Arguments of `kmtl.callbacks.BackupAndResume`."""

    folder: str
    every: Annotated[Any, AfterValidator(_interval)] = "epoch"
    keep: AtLeast1 = 2


def _listed(value):
    """A single metric is a list of one."""
    if not isinstance(value, Mapping):
        return value
    return {task: v if isinstance(v, list) else [v] for task, v in value.items()}


class Training(Part):
    """How it is trained, and where."""

    losses: dict[str, OptionalSpecification] = Field(min_length=1)
    metrics: Annotated[dict[str, list[Specification]], BeforeValidator(_listed)] = {}
    weighting: OptionalSpecification = None
    optimizer: Specification = "Adam"
    epochs: AtLeast1
    steps_per_epoch: AtLeast1 | None = None
    steps_per_execution: AtLeast1 = 1
    gradient_accumulation_steps: AtLeast1 | None = None
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: Literal["auto", True, False] = "auto"
    seed: AtLeast0 = 0
    early_stopping: EarlyStopping | None = None
    strategy: Literal["auto", "none", "mirrored", "multi_worker", "tpu"] = "auto"
    workers: AtLeast1 | None = None
    logical_cpus: AtLeast1 | None = None
    backup: Backup | None = None
    tensorboard: str | None = None


class Export(Part):
    """Arguments of `kmtl.export.export_litert`; the data are the training data."""

    path: Annotated[str, ending_in(".tflite")]
    quantization: str | None = None
    tolerance: Annotated[float, Field(gt=0)] | None = None
    tasks: list[str] | None = None
    batch_size: AtLeast1 | None = 1
    labels: dict[str, list[str]] | None = None
    overrides: dict[str, str] | None = None
    target: str | None = None
    task_signatures: bool = False


class Config(Part):
    """All of a configuration."""

    data: Data
    network: Annotated[LayeredNetwork | OwnNetwork, Field(discriminator="kind")]
    training: Training
    model: Annotated[str, ending_in(".keras")] | None = None
    results: Annotated[str, ending_in(".json")] | None = None
    export: list[Export] = []
