"""Deployment: fold a trained model, convert it to LiteRT, verify it head by head."""

if __name__ != "kmtl.export":
    raise ImportError(
        "This package is `kmtl.export`; import it by that name. A second copy under another "
        f"name would have classes of its own. Received: {__name__}"
    )

from kmtl.export import tfmot as tfmot
from kmtl.export.benchmarking.benchmark import Benchmark as Benchmark
from kmtl.export.benchmarking.benchmark import benchmark_litert as benchmark_litert
from kmtl.export.compare import VerificationError as VerificationError
from kmtl.export.edgetpu.lint import Lint as Lint
from kmtl.export.edgetpu.lint import lint_litert as lint_litert
from kmtl.export.flatbuffers.inspection import inspect_litert as inspect_litert
from kmtl.export.folding.fold import fold as fold
from kmtl.export.litert.export_litert import ExportResult as ExportResult
from kmtl.export.litert.export_litert import export_litert as export_litert
from kmtl.export.on_device.export_trainable import TrainableResult as TrainableResult
from kmtl.export.on_device.export_trainable import export_trainable as export_trainable
from kmtl.export.on_device.trainable_model import TrainableModel as TrainableModel
from kmtl.export.on_device.trainable_model import load_trainable as load_trainable
from kmtl.export.quantization_aware.float_parts import float_layers as float_layers
from kmtl.export.quantization_aware.quantize_aware import quantize_aware as quantize_aware
from kmtl.export.reporting.report import Report as Report
from kmtl.export.reporting.report import report as report
from kmtl.export.runtime.litert_model import LiteRTModel as LiteRTModel
from kmtl.export.runtime.litert_model import load_litert as load_litert
from kmtl.export.targets.aot import AotResult as AotResult
from kmtl.export.targets.aot import compile_aot as compile_aot
from kmtl.export.targets.onnx import OnnxResult as OnnxResult
from kmtl.export.targets.onnx import export_onnx as export_onnx
from kmtl.export.targets.saved_model import SavedModelResult as SavedModelResult
from kmtl.export.targets.saved_model import export_saved_model as export_saved_model
from kmtl.export.tuning.autotune import Autotuned as Autotuned
from kmtl.export.tuning.autotune import autotune as autotune

__all__ = [
    "AotResult",
    "Autotuned",
    "Benchmark",
    "ExportResult",
    "Lint",
    "LiteRTModel",
    "OnnxResult",
    "Report",
    "SavedModelResult",
    "TrainableModel",
    "TrainableResult",
    "VerificationError",
    "autotune",
    "benchmark_litert",
    "compile_aot",
    "export_litert",
    "export_onnx",
    "export_saved_model",
    "export_trainable",
    "float_layers",
    "fold",
    "inspect_litert",
    "lint_litert",
    "load_litert",
    "load_trainable",
    "quantize_aware",
    "report",
    "tfmot",
]
