"""All that comes before training, and before `--check` says that it could begin."""

import contextlib
import dataclasses

import keras

from kmtl.models import MultiTaskModel
from kmtl.training.building.compiling import compile_model
from kmtl.training.building.network import build
from kmtl.training.checking.exports import check_exports, check_exports_of
from kmtl.training.checking.monitoring import stopping_arguments
from kmtl.training.checking.places import check_places
from kmtl.training.checking.rehearsal import check_arrays, limits_of, rehearse
from kmtl.training.checking.seeds import check_seed
from kmtl.training.configuration.schema import Config
from kmtl.training.loading.data import Loaded, check_files, load
from kmtl.training.loading.examples import Limits


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What training begins with.

    Attributes:
        data: The data.
        model: The model, compiled.
        limits: What labels may be.
    """

    data: Loaded
    model: MultiTaskModel
    limits: Limits


def check_first(config: Config, writes: bool) -> None:
    """What can be known before data are read, and before workers wait for each other.

    Args:
        config: The configuration.
        writes: Whether this worker writes files.

    Raises:
        ValueError, FileNotFoundError: naming the key.
    """
    check_files(config.data)
    check_exports(config)
    check_seed(config.training)
    if writes:
        check_places(config)


def prepare(config: Config, scope, replicas: int, rehearsed: bool = True) -> Prepared:
    """Reads the data, makes the model, and tries one on the other.

    Args:
        config: The configuration.
        scope: The strategy's, for the model.
        replicas: How many there are.
        rehearsed: Whether to run the model on a few examples. Defaults to `True`.

    Raises:
        ValueError: for what training could not use; the message names the key.
    """
    training = config.training
    if config.data.batch_size % replicas:
        raise ValueError(
            f"`data.batch_size` must be divisible by the number of replicas, {replicas}. "
            f"Received: {config.data.batch_size}"
        )
    data = load(config)
    with scope:
        keras.utils.set_random_seed(training.seed)
        model = build(config, data)
        compile_model(model, training, data)
    check_exports_of(model, config)
    if training.early_stopping is not None:
        stopping_arguments(model, training, data)
    limits = limits_of(model, training, data)
    check_arrays(data, limits)
    if rehearsed:
        rehearse(model, training, data, limits, config.data.batch_size // replicas)
    return Prepared(data, model, limits)


@contextlib.contextmanager
def precision(policy: str):
    """A dtype policy for this run alone."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
