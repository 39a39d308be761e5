"""A trained model made of built-in Keras layers, and forms that quantise well."""

__all__: list[str] = []
