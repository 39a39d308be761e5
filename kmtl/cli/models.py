"""Reading .keras files, with errors that a command can show."""

from pathlib import Path


def load_model(path: str):
    """The model that `model.save` wrote to `path`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole model, or made of classes that nobody knows.
    """
    import keras

    if not Path(path).is_file():
        raise FileNotFoundError(f"MODEL.keras must be an existing file. Received: {path}")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # zip, HDF5 and JSON errors alike
        raise ValueError(
            "MODEL.keras must be a whole model written by `model.save`, made of classes that "
            f"Keras or kmtl know. Received: {path} ({error})"
        ) from error
