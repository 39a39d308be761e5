"""The data of a configuration: what `fit`, `evaluate` and the export are given."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from kmtl.data import TaskMixture
from kmtl.data.layout import Layout
from kmtl.data.reading import read_sources
from kmtl.training import readers
from kmtl.training.configuration.consistency import check_names
from kmtl.training.configuration.schema import Config
from kmtl.training.configuration.schema_data import Data
from kmtl.training.loading.held_out import batches, unlabelled
from kmtl.training.readers.files import files_of
from kmtl.training.readers.labels import absent

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What was read.

    Attributes:
        mixture: The training data.
        held_out: Split -> `tf.data.Dataset` of batches, each example once; "validation", "test".
        sizes: Split -> source -> number of examples.
        sources: `data.<split>.<name>` -> what was read: `({input: array}, {task: labels})`, with
            sample weights or without, or a `tf.data.Dataset` of such examples.
        missing: Task -> the mark of an absent label, for `compile`.
        marked: `data.<split>.<name>` -> the same of those tasks that have such labels there.
        unlabelled: Split -> the tasks of which it has no label; "validation", "test".
        inputs: Input -> `tf.TensorSpec` of one example.
        labels: Task -> the same.
        moments: Input -> (mean, variance) over the training data, of those to standardise.
    """

    mixture: TaskMixture
    held_out: dict
    sizes: dict[str, dict[str, int]]
    sources: dict
    missing: dict
    marked: dict[str, dict]
    unlabelled: dict[str, list[str]]
    inputs: dict
    labels: dict
    moments: dict[str, tuple[np.ndarray, np.ndarray]]


def check_files(data: Data) -> None:
    """Raises FileNotFoundError, naming the key, for paths that name no file."""
    for split in SPLITS:
        for name, source in (getattr(data, split) or {}).items():
            if hasattr(source, "path"):
                files_of(source.path, f"data.{split}.{name}")


def load(config: Config) -> Loaded:
    """Reads all sources.

    Raises:
        ValueError: for sources that cannot be read or do not fit together; the message names
            them by their key.
    """
    data = config.data
    read = {
        f"data.{split}.{name}": readers.read(source, f"data.{split}.{name}", split)
        for split in SPLITS
        for name, source in (getattr(data, split) or {}).items()
    }
    found = {source.name: source for source in read_sources(read, data.buffer_size)}
    found = {key: found[key] for key in read}  # what is told first is compared with training
    trained = _of(found, "train").values()
    labels = {task: spec for source in trained for task, spec in source.spec[1].items()}
    for key, source in found.items():
        check_names(key, source.spec[1], labels, "tasks of `data.train`")
    marked = _marked(data, read, found)
    marks = {task: mark for here in marked.values() for task, mark in here.items()}
    layout = Layout(list(found.values()), marks, None)
    inputs = next(iter(trained)).spec[0]
    moments = {name: _moments(name, inputs, _of(read, "train")) for name in data.standardize}
    shaped = {key: _shaped(source) for key, source in read.items()}
    mixture = TaskMixture(
        _of(shaped, "train"),
        batch_size=data.batch_size,
        sampling=data.sampling,
        mode=data.mode,
        missing=marks,
        seed=data.seed,
        alpha=data.alpha,
        temperature=data.temperature,
        anneal_epochs=data.anneal_epochs,
        final_alpha=data.final_alpha,
        steps_per_epoch=config.training.steps_per_epoch,
        buffer_size=data.buffer_size,
    )
    sizes = {split: {n: s.size for n, s in _of(found, split).items()} for split in SPLITS}
    held_out = [split for split in SPLITS[1:] if getattr(data, split) is not None]
    return Loaded(
        mixture=mixture,
        held_out={
            split: batches(_of(shaped, split), layout, data.batch_size, sum(sizes[split].values()))
            for split in held_out
        },
        sizes=sizes,
        sources=read,
        missing=layout.missing,
        marked=marked,
        unlabelled={split: unlabelled(_of(found, split).values(), layout) for split in held_out},
        inputs=inputs,
        labels=labels,
        moments=moments,
    )


def _of(by_key: Mapping, split) -> dict:
    """Of what goes by `data.<split>.<name>`, that of one split by name."""
    prefix = f"data.{split}."
    return {k.removeprefix(prefix): v for k, v in by_key.items() if k.startswith(prefix)}


def _marked(data, read, found):
    """Source -> task -> mark, of the tasks whose labels may be absent within that source."""
    marked = {}
    for split in SPLITS:
        for name, source in (getattr(data, split) or {}).items():
            key = f"data.{split}.{name}"
            arrays = not isinstance(read[key], tf.data.Dataset)
            for task, told in (source.tasks or {}).items():
                dtype = found[key].spec[1][task].dtype
                cells = source.format in ("csv", "parquet") and dtype.is_floating
                if told.missing is not None or cells or (arrays and told.dtype == "int32"):
                    marked.setdefault(key, {})[task] = absent(dtype.as_numpy_dtype)
    return marked


def bare(x: Mapping):
    """A single input without its name: it is what Keras feeds a model of one input."""
    return next(iter(x.values())) if len(x) == 1 else x


def _shaped(source):
    def shaped(x, *rest):
        return bare(x), *rest

    return source.map(shaped) if isinstance(source, tf.data.Dataset) else shaped(*source)


def _moments(name, inputs, sources):
    """Mean and variance of an input's last axis over all examples of training."""
    check_names("data.standardize", [name], inputs, "inputs of the data")
    for key, source in sources.items():
        if isinstance(source, tf.data.Dataset):
            raise ValueError(
                "`data.standardize` must name inputs of arrays or tables, which can be measured. "
                f"Received: {name}, which `data.train.{key}` streams"
            )
    rows = [np.asarray(source[0][name], "float64") for source in sources.values()]
    flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows])
    return flat.mean(axis=0), flat.var(axis=0)
