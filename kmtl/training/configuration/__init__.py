"""What a configuration may say, and how mistakes in it are told."""

__all__: list[str] = []
