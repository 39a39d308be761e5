"""Multi-task learning for Keras 3, from shared layers to verified LiteRT files.

`kmtl.export` is imported on its own, so that training pays nothing for it. `kmtl.analysis` and
`kmtl.datasets`, which no saved model needs, are imported where they are first used.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kmtl.version import __version__ as __version__

# The command `kmtl` answers `--help` without TensorFlow and sets Keras's environment first; it
# imports what it needs itself (see kmtl/cli/main.py).
_SCRIPT = Path((getattr(sys, "argv", None) or [""])[0]).stem
if _SCRIPT != "kmtl" and "kmtl.cli.main" not in sys.orig_argv:
    from kmtl import auxiliary as auxiliary
    from kmtl import callbacks as callbacks
    from kmtl import data as data
    from kmtl import grouping as grouping
    from kmtl import layers as layers
    from kmtl import losses as losses
    from kmtl import metrics as metrics
    from kmtl import models as models
    from kmtl import regularizers as regularizers
    from kmtl import weighting as weighting
    from kmtl.models import MultiTaskModel as MultiTaskModel

if TYPE_CHECKING:
    from kmtl import analysis as analysis
    from kmtl import datasets as datasets


def __getattr__(name: str):
    if name in ("analysis", "datasets"):
        return importlib.import_module(f"kmtl.{name}")
    raise AttributeError(f"module 'kmtl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "MultiTaskModel",
    "__version__",
    "analysis",
    "auxiliary",
    "callbacks",
    "data",
    "datasets",
    "grouping",
    "layers",
    "losses",
    "metrics",
    "models",
    "regularizers",
    "weighting",
]
