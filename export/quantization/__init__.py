"""Post-training quantisation by recipes."""

__all__: list[str] = []
