"""Other formats: SavedModel, ONNX, vendors' compilers."""

__all__: list[str] = []
