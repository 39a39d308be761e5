"""Compiles a LiteRT file for a phone's or laptop's neural accelerator, ahead of time."""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import os
import re
import tempfile
from pathlib import Path

from kmtl.export.compare import VerificationError
from kmtl.export.files import write_together
from kmtl.export.flatbuffers.convert import quiet_stderr
from kmtl.export.flatbuffers.inspection import check_flatbuffer

# LiteRT brings a plugin for each vendor; the compiler that it calls comes with the vendor's kit.
# Package under ai_edge_litert.aot.vendors -> the kit's modules, and how to get them.
KITS = {
    "google_tensor": (
        ("ai_edge_litert_sdk_google_tensor",),
        "the Google Tensor SDK from developers.google.com/edge/litert/next/tensor-sdk",
    ),
    "intel_openvino": (
        ("ai_edge_litert_sdk_intel", "openvino"),
        'pip install "ai-edge-litert[npu-intel]" openvino',
    ),
    "mediatek": (("ai_edge_litert_sdk_mediatek",), 'pip install "ai-edge-litert[npu-sdk]"'),
    "qualcomm": (("ai_edge_litert_sdk_qualcomm",), 'pip install "ai-edge-litert[npu-sdk]"'),
    "samsung": (
        ("ai_edge_litert_sdk_samsung",),
        "the package ai_edge_litert_sdk_samsung of Samsung's developer programme",
    ),
}


@dataclasses.dataclass(frozen=True)
class AotResult:
    """What `compile_aot` wrote.

    Attributes:
        path: The compiled `.tflite` file; it runs on devices with the target's chip only.
        target: The chip, as in `Qualcomm_SM8750`.
        bytes: Size of the file.
        tasks: The heads' names, sorted.
        ops_on_npu: Number of operations that the accelerator computes.
        ops: Number of all operations; the CPU computes the rest.
    """

    path: Path
    target: str
    bytes: int
    tasks: tuple[str, ...]
    ops_on_npu: int
    ops: int


def compile_aot(path: str | os.PathLike, target: str) -> AotResult:
    """Compiles a `.tflite` file for one chip, so that the device need not do it at each start.

    For large models and where the chip is known; without this, LiteRT compiles on the device.
    The compiled file is written beside the other, as `MODEL_<target>.tflite`. Its heads are
    compared by name; it cannot be run but on the chip, so measure it there.

    Args:
        path: A file that `export_litert` wrote, with a fixed batch size.
        target: Vendor and chip, as in `"Qualcomm_SM8750"` or `"MediaTek_MT6989"`. The error
            for an unknown one lists all that the installed LiteRT has.

    Returns:
        An `AotResult`.

    Raises:
        ImportError: if the vendor's kit is missing; the message tells how to install it.
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown target, a damaged file, a dynamic batch size, or a model of
            which the compiler takes nothing.
        VerificationError: if a head was lost. In each case nothing is written.

    Example:

    ```python
    kmtl.export.export_litert(model, "model.tflite", "int8", representative_data=x)
    result = kmtl.export.compile_aot("model.tflite", target="Qualcomm_SM8750")
    print(f"{result.ops_on_npu} of {result.ops} operations on the accelerator")
    ```
    """
    path = Path(path)
    content = path.read_bytes()
    signature = check_flatbuffer(content, str(path))
    vendor, chip = _find(target)
    dynamic = [name for name, x in signature.inputs.items() if None in x.shape]
    if dynamic:
        raise ValueError(
            "All shapes must be static; export with a `batch_size`. "
            f"Received: input {dynamic[0]!r} of shape {signature.inputs[dynamic[0]].shape}"
        )
    modules, install = KITS[vendor]
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Compiling for {target} needs the vendor's kit: {install}. "
            f"Received: no {', '.join(missing)}"
        )
    compiled, stats = _compile(content, target, chip, install)
    names = _heads(compiled)
    if names != _heads(content):
        raise VerificationError(
            f"The compiled file must have the heads {_heads(content)}. Received: {names}"
        )
    taken = sum(s.num_ops_offloaded for s in stats)
    if not taken:
        raise ValueError(
            f"At least one operation must run on {target}. Received: none that its compiler takes"
        )
    result = AotResult(
        path=path.with_name(f"{path.stem}_{target}.tflite"),
        target=target,
        bytes=len(compiled),
        tasks=tuple(sorted({task for heads in names.values() for task in heads})),
        ops_on_npu=taken,
        ops=sum(s.num_total_ops for s in stats),
    )
    write_together({result.path: compiled})
    return result


def _find(target):
    """The vendor and LiteRT's own object for a target."""
    found = {}
    for vendor in KITS:
        package = f"ai_edge_litert.aot.vendors.{vendor}"
        importlib.import_module(f"{package}.{vendor}_backend")  # registers it
        chips = importlib.import_module(f"{package}.target")
        for model in chips.SocModel:
            if model.name != "ALL":
                chip = chips.Target(model)
                found[repr(chip)] = vendor, chip
    if target not in found:
        raise ValueError(f"`target` must be one of {sorted(found)}. Received: target={target!r}")
    return found[target]


def _compile(content, target, chip, install):
    from ai_edge_litert.aot import aot_compile

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(content)
        noise = io.StringIO()  # a progress bar
        try:
            with contextlib.redirect_stderr(noise), quiet_stderr():
                result = aot_compile.aot_compile(
                    str(source), output_dir=folder, target=chip, keep_going=False
                )
        except ValueError as error:
            raise ValueError(
                f"The compiler for {target} must be whole and take the model. Its kit is: "
                f"{install}. Received: {_reason(str(error))}"
            ) from None
        (compiled,) = result.models
        stats = compiled.partition_stats.subgraph_stats if compiled.partition_stats else []
        if not compiled.in_memory:
            compiled.load()
        return compiled.model_bytes, stats


def _reason(message):
    """What LiteRT's tool logged about a failure; it names a file, which is removed."""
    log = re.search(r"See (\S+\.error) for details", message)
    if log is None:
        return message
    text = Path(log[1]).read_text(errors="replace")
    Path(log[1]).unlink()
    lines = [line.strip(" └") for line in text.splitlines() if line.strip()]
    for telling in ("Could not load|Cannot load|Failed to load", "ERROR", ""):
        found = [line for line in lines if re.search(telling, line)]
        if found:
            return found[-1]
    return message


def _heads(content) -> dict[str, list[str]]:
    """Signature -> heads, read without running: only the chip can run a compiled file."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return {
        s.signatureKey.decode(): sorted(x.name.decode() for x in s.outputs)
        for s in model.signatureDefs or []
    }
