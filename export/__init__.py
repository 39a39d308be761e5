"""Deployment: fold a trained model, convert it to LiteRT, verify it head by head."""

if __name__ != "kmtl.export":
    raise ImportError(
        "This package is `kmtl.export`; import it by that name. A second copy under another "
        f"name would have classes of its own. Received: {__name__}"
    )

from kmtl.export.fold import fold as fold
from kmtl.export.inspection import inspect_litert as inspect_litert
from kmtl.export.litert import ExportResult as ExportResult
from kmtl.export.litert import export_litert as export_litert
from kmtl.export.runtime import LiteRTModel as LiteRTModel
from kmtl.export.runtime import load_litert as load_litert
from kmtl.export.verify import VerificationError as VerificationError

__all__ = [
    "ExportResult",
    "LiteRTModel",
    "VerificationError",
    "export_litert",
    "fold",
    "inspect_litert",
    "load_litert",
]
