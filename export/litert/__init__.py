"""From a trained model to a verified file."""

__all__: list[str] = []
