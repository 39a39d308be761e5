"""Ahead-of-time compilation: what is missing is said, and what comes back is checked."""

import importlib.util
import tempfile
from pathlib import Path

import keras
import pytest
from keras import layers

import kmtl
from kmtl.export import VerificationError, compile_aot, export_litert
from kmtl.export.targets import aot as module

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

from ai_edge_litert.aot import aot_compile  # noqa: E402
from ai_edge_litert.aot.core import aot_types  # noqa: E402

pytestmark = pytest.mark.slow

TARGETS = {  # one of each vendor -> what its error must tell to install
    "Google_Tensor_G5": "tensor-sdk",
    "IntelOpenVINO_LNL": r'pip install "ai-edge-litert\[npu-intel\]" openvino',
    "MediaTek_MT6989": r'pip install "ai-edge-litert\[npu-sdk\]"',
    "Qualcomm_SM8750": r'pip install "ai-edge-litert\[npu-sdk\]"',
    "Samsung_E9965": "ai_edge_litert_sdk_samsung",
}
QUALCOMM = "Qualcomm_SM8750"


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The file of a model with three heads, and the one of a part that lacks a head."""
    folder = tmp_path_factory.mktemp("aot")
    x = keras.Input((3,), name="x")
    heads = {task: layers.Dense(2)(x) for task in ("zeta", "alpha", "mid")}
    model = kmtl.MultiTaskModel(x, heads)
    whole = export_litert(model, folder / "whole.tflite").path.read_bytes()
    part = export_litert(model, folder / "part.tflite", tasks=["zeta", "mid"]).path.read_bytes()
    dynamic = export_litert(model, folder / "dynamic.tflite", batch_size=None).path.read_bytes()
    return {"whole": whole, "part": part, "dynamic": dynamic}


@pytest.fixture
def path(contents, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(contents["whole"])
    return path


@pytest.fixture
def kit(monkeypatch):
    """As if the vendor's kit were there."""

    def find_spec(name, *_, real=importlib.util.find_spec):
        return object() if name.startswith("ai_edge_litert_sdk") else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def compiler(content, offloaded, total=3):
    """In place of LiteRT's: answers with this content."""

    def compile(source, output_dir, target, keep_going):
        assert Path(source).parent == Path(output_dir) and not keep_going
        model = aot_types.Model.create_from_path(Path(output_dir) / "compiled.tflite")
        model.path.write_bytes(content)
        stats = [aot_types.SubgraphPartitionStats(0, offloaded, total, 1)] if total else []
        model.partition_stats = aot_types.PartitionStats(stats)
        return aot_types.CompilationResult(models_with_backend=[(None, model)])

    return compile


@pytest.mark.parametrize("target", TARGETS)
def test_a_missing_kit_names_what_to_install(path, target):
    vendor, _ = module._find(target)
    missing = [name for name in module.KITS[vendor][0] if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip(f"the kit for {target} is installed")
    with pytest.raises(ImportError, match=f"{target} needs .*{TARGETS[target]}.*{missing[0]}"):
        compile_aot(path, target)
    assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]


def test_what_was_compiled_is_written_beside_the_model(path, contents, kit, monkeypatch):
    monkeypatch.setattr(aot_compile, "aot_compile", compiler(contents["whole"], offloaded=2))
    result = compile_aot(path, QUALCOMM)
    assert result.path == path.with_name("model_Qualcomm_SM8750.tflite")
    assert result.path.read_bytes() == contents["whole"] and path.exists()
    assert result.bytes == len(contents["whole"]) and result.target == QUALCOMM
    assert result.tasks == ("alpha", "mid", "zeta")
    assert (result.ops_on_npu, result.ops) == (2, 3)
    assert len(list(path.parent.iterdir())) == 2


def test_a_lost_head_is_caught(path, contents, kit, monkeypatch):
    monkeypatch.setattr(aot_compile, "aot_compile", compiler(contents["part"], offloaded=2))
    with pytest.raises(VerificationError, match=r"alpha.*Received: .*\['mid', 'zeta'\]"):
        compile_aot(path, QUALCOMM)
    assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize("total", [0, 3])
def test_a_file_that_stays_on_the_cpu_is_refused(path, contents, total, kit, monkeypatch):
    monkeypatch.setattr(aot_compile, "aot_compile", compiler(contents["whole"], 0, total))
    with pytest.raises(ValueError, match="At least one operation must run on Qualcomm_SM8750"):
        compile_aot(path, QUALCOMM)
    assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]


@pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert_sdk_qualcomm") is not None,
    reason="the kit is installed, so that the compiler does not fail",
)
def test_litert_s_own_compiler_s_error_is_told_and_its_log_removed(
    path, kit, tmp_path_factory, monkeypatch, capfd
):
    logs = tmp_path_factory.mktemp("logs")
    monkeypatch.setattr(tempfile, "tempdir", str(logs))
    message = r"compiler for Qualcomm_SM8750 .*npu-sdk.*Received: .*libQnnHtp.so"
    with pytest.raises(ValueError, match=message):
        compile_aot(path, QUALCOMM)
    assert capfd.readouterr() == ("", "")
    assert not list(logs.iterdir())
    assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize("target", ["Qualcomm", "Qualcomm_ALL", "", "tpu"])
def test_an_unknown_target_is_answered_with_all_there_are(path, target):
    with pytest.raises(ValueError, match="`target` must be one of") as caught:
        compile_aot(path, target)
    assert all(repr(name) in str(caught.value) for name in TARGETS)
    assert str(caught.value).endswith(f"Received: target={target!r}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "TFL3"),
        ("half", "whole"),
        ("dynamic", r"static; export with a `batch_size`.*'x' of shape \(None, 3\)"),
    ],
)
def test_a_file_that_cannot_be_compiled(path, contents, content, message, kit):
    half = contents["whole"][: len(contents["whole"]) // 2]
    path.write_bytes({"half": half, **contents}.get(content, b""))
    with pytest.raises(ValueError, match=message):
        compile_aot(path, QUALCOMM)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        compile_aot(tmp_path / "none.tflite", QUALCOMM)
