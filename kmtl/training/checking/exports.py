"""What is asked of the export, checked before training."""

import contextlib

from kmtl.export.edgetpu.lint import TARGETS
from kmtl.export.edgetpu.target import check_request
from kmtl.export.litert.arguments import checked_labels, checked_quantization
from kmtl.export.quantization.recipes import OVERRIDES, QUANTIZATIONS
from kmtl.models import MultiTaskModel
from kmtl.training.configuration.complaints import nearest
from kmtl.training.configuration.consistency import check_names
from kmtl.training.configuration.schema import Config


def check_exports(config: Config) -> None:
    """Raises ValueError, naming the key, for number types and targets that there are not."""
    for i, export in enumerate(config.export):
        _check_one_of(f"export.{i}.quantization", export.quantization, (None, *QUANTIZATIONS))
        _check_one_of(f"export.{i}.target", export.target, (None, *TARGETS))
        for name, quantization in (export.overrides or {}).items():
            _check_one_of(f"export.{i}.overrides.{name}", quantization, OVERRIDES)


def check_exports_of(model: MultiTaskModel, config: Config) -> None:
    """As `check_exports`, for what does not fit the model or each other."""
    for i, export in enumerate(config.export):
        key = f"export.{i}"
        check_names(f"{key}.tasks", export.tasks or (), model.output, "tasks of the network")
        asked = export.overrides or {}
        with _named(key):
            quantization = checked_quantization(model, export.quantization, asked, export.target)
            if export.target is not None:
                check_request(quantization, asked, export.batch_size)
        with _named(f"{key}.labels"):
            checked_labels(export.labels, model)


@contextlib.contextmanager
def _named(key):
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`{key}` must be what can be exported: {error}") from error


def _check_one_of(key, value, known):
    if value not in known:
        names = [name for name in known if name is not None]
        likely = nearest(value, names)
        hint = "" if likely is None else f"; the nearest is {likely}"
        raise ValueError(f"`{key}` must be one of {', '.join(names)}{hint}. Received: {value}")
