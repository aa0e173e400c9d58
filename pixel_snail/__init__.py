"""PixelSNAIL (Chen, Mishra, Rohaninejad, Abbeel, ICML 2018) in TensorFlow 2 and Keras 3."""

import os
import sys
import tempfile


def _import_tensorflow_quietly() -> None:
    """Imports TensorFlow without the notices it writes before it reads its own log level.

    What it wrote is shown all the same if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The layers are written with TensorFlow's ops, whatever other backend the user's Keras prefers.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


_import_tensorflow_quietly()
