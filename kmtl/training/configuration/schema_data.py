"""What `data` in a configuration may hold."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kmtl.training.configuration.schema_values import (
    AtLeast0,
    AtLeast1,
    EntryPoint,
    NumberOrNaN,
    Part,
    is_entry_point,
)


class Task(Part):
    """Where a task's labels are.

    Attributes:
        key: The array, column or feature; the task's own name where it is None.
        missing: The value that marks an absent label.
        dtype: What labels are turned into.
    """

    key: str | None = None
    missing: NumberOrNaN | None = None
    dtype: Literal["float32", "int32"] | None = None


def _by_name(value):
    """`[a, b]` is `{a: {}, b: {}}`."""
    return dict.fromkeys(value, {}) if _are_texts(value) else value


def _keys(value):
    """`[a, b]` is `{a: a, b: b}`."""
    return {key: key for key in value} if _are_texts(value) else value


def _columns(value):
    """`[a, b]` is one input of two columns."""
    return {"features": value} if _are_texts(value) else value


def _are_texts(value):
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


Tasks = Annotated[dict[str, Task], Field(min_length=1), BeforeValidator(_by_name)]
Keys = Annotated[dict[str, str], Field(min_length=1), BeforeValidator(_keys)]
Columns = Annotated[
    dict[str, Annotated[list[str], Field(min_length=1)]],
    Field(min_length=1),
    BeforeValidator(_columns),
]


class Arrays(Part):
    """Arrays of .npz files, by key."""

    format: Literal["npz"]
    path: str
    inputs: Keys
    tasks: Tasks


class Table(Part):
    """Columns of .csv or Parquet files."""

    format: Literal["csv", "parquet"]
    path: str
    inputs: Columns
    tasks: Tasks


class Feature(Part):
    """What a feature of a `tf.train.Example` holds; other types than its own are raw bytes."""

    shape: list[AtLeast1] = []
    dtype: Literal["float32", "int64", "uint8", "int8", "int32", "uint16", "float16", "float64"]


class Records(Part):
    """TFRecord files of `tf.train.Example`."""

    format: Literal["tfrecord"]
    path: str
    features: dict[str, Feature] = Field(min_length=1)
    examples: AtLeast1 | None = None
    inputs: Keys
    tasks: Tasks


class Function(Part):
    """A function that returns the examples."""

    format: Literal["python"]
    function: EntryPoint
    arguments: dict[str, Any] = {}
    tasks: Tasks | None = None


Source = Annotated[Arrays | Table | Records | Function, Field(discriminator="format")]


def _named(value):
    """Sources by name: those of a list are called 0, 1, ...; a text is a function."""
    if isinstance(value, list):
        value = {str(i): source for i, source in enumerate(value)}
    if not isinstance(value, Mapping):
        return value
    return {
        name: {"format": "python", "function": source} if is_entry_point(source) else source
        for name, source in value.items()
    }


Sources = Annotated[dict[str, Source], Field(min_length=1), BeforeValidator(_named)]


class Data(Part):
    """The splits, and the arguments of `kmtl.data.TaskMixture`.

    Attributes:
        standardize: Inputs that the model brings to mean 0 and variance 1, as measured on the
            training data.
    """

    train: Sources
    validation: Sources | None = None
    test: Sources | None = None
    batch_size: AtLeast1
    sampling: Literal["proportional", "uniform", "temperature", "annealed", "round_robin"] = (
        "proportional"
    )
    mode: Literal["joint", "one_source"] = "joint"
    seed: AtLeast0 = 0
    alpha: float | None = None
    temperature: float | None = None
    anneal_epochs: AtLeast1 | None = None
    final_alpha: float | None = None
    buffer_size: AtLeast1 = 1024
    standardize: list[str] = []
