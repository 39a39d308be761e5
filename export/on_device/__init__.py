"""Fine-tuning one head on the device that runs the model."""

__all__: list[str] = []
