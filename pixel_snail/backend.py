"""Imports TensorFlow and Keras the way this package needs them: quietly, and Keras on TensorFlow."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up notices, and Keras with the TensorFlow backend.

    The notices are shown all the same if the import fails. Environment variables are as before afterwards.

    Raises:
        ImportError: Keras already runs on another backend.
    """
    log_level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    with _environment(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL=log_level), _quiet_stderr():
        import keras
        import tensorflow  # noqa: F401
    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"pixel_snail needs Keras on TensorFlow, but Keras already runs on {keras.backend.backend()}: import "
            "pixel_snail before keras, or set KERAS_BACKEND=tensorflow"
        )


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Holds back what is written to stderr, by C++ code too, and shows it only if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            yield
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
