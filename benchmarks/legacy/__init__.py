"""Programs that run in .venv-legacy, on TensorFlow 2.15; nothing of kmtl is imported here."""
