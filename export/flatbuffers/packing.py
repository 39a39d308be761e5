"""LiteRT's schema objects back to bytes, and files behind them."""

import io
import zipfile
from collections.abc import Mapping

import flatbuffers
import numpy as np

ALIGNMENT = 16  # of constants, in LiteRT's schema


def repack(model, content: bytes) -> bytes:
    """A changed model as bytes; constants behind the flatbuffer, as in large files, move along.

    What stood behind those, such as label files, is left out. Custom operations can have data
    there, too, but exported files hold builtin ones only.

    Args:
        model: LiteRT's `ModelT`, read from `content` and changed.
        content: The file's bytes before that.
    """
    packed = _pack(model)
    outside = [buffer for buffer in model.buffers if buffer.offset > 1]
    if not outside:
        return packed
    start = min(buffer.offset for buffer in outside)
    end = max(buffer.offset + buffer.size for buffer in outside)
    padded = len(packed) + (start - len(packed)) % ALIGNMENT
    for buffer in outside:
        buffer.offset += padded - start
    return _pack(model).ljust(padded, b"\0") + content[start:end]  # offsets have a fixed width


class _Builder(flatbuffers.Builder):
    """Aligns constants as the schema asks for, and stores equal vectors and texts once.

    The generated Python code does neither. Zero points, a 64-bit 0 for each channel of each
    kernel and bias, are an eighth of a quantised MobileNetV2 otherwise, and graphs that share
    constants repeat their scales.
    """

    def __init__(self, size):
        super().__init__(size)
        self._places = {}

    def CreateNumpyVector(self, values):
        key = values.dtype.str, values.tobytes()
        if key not in self._places:
            if values.dtype == np.uint8:
                self.Prep(ALIGNMENT, values.nbytes)
            self._places[key] = super().CreateNumpyVector(values)
        return self._places[key]

    def CreateString(self, text, *args):
        if text not in self._places:
            self._places[text] = super().CreateString(text, *args)
        return self._places[text]


def _pack(model) -> bytes:
    builder = _Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def append_files(content: bytes, files: Mapping[str, bytes]) -> bytes:
    """Puts an uncompressed zip archive behind a model, where runtimes do not look.

    Args:
        content: The model's bytes.
        files: File name -> bytes. Nothing is added where there are none.
    """
    if not files:
        return content
    stream = io.BytesIO(content)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)  # its date is a fixed one: equal models, equal files
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return stream.getvalue()
