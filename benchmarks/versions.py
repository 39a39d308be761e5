"""What results were made with."""

import platform
from importlib import metadata

PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "ai-edge-quantizer", "numpy")


def versions() -> dict[str, str]:
    """Name -> version, of kmtl, Python and the packages that matter to results."""
    from kmtl.version import __version__  # not at the top: it imports Keras

    return {
        "kmtl": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }
