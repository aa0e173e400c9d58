"""Imports TensorFlow and Keras as this package needs them: without their messages, and Keras on TensorFlow.

Every module takes `tf` and `keras` from here. Modules that need neither, such as those of the command line, start
without the seconds that the import takes.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pixel_snail.errors import UserError
from pixel_snail.storage import compiled


@contextlib.contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    """Sets environment variables, or removes those that are None; afterwards all are as before."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set(variables)
        yield
    finally:
        _set(before)


def _set(variables):
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Holds back all output to stderr, also that of C++ code, and shows it only if the block raises."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        stderr, notices = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    except OSError:  # stderr is closed, or there is no folder for temporary files
        yield
        return
    with notices:
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


def _import_matplotlib() -> None:
    """Imports Matplotlib, which Keras does too, even where MPLBACKEND names a backend that is not installed.

    A notebook hands such a name to the programs that it starts. Our pictures need no backend.
    """
    if "matplotlib" in sys.modules:
        return
    with _environment(MPLBACKEND=None):
        import matplotlib
    if backend := os.environ.get("MPLBACKEND"):
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def _load_cusolver() -> None:
    """Loads cuSOLVER from where `pip install tensorflow[and-cuda]` puts it.

    TensorFlow 2.21 finds CUDA's other libraries there, but looks for this one in the system's folders only, and uses no
    GPU without it. Once it is loaded, TensorFlow takes it.
    """
    with contextlib.suppress(ImportError, OSError):
        package = importlib.util.find_spec("nvidia.cusolver")
        for folder in package.submodule_search_locations if package else ():
            for library in Path(folder, "lib").glob("libcusolver.so.*"):
                ctypes.CDLL(str(library))


log_level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
with _environment(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL=log_level), _quiet_stderr():
    _import_matplotlib()
    _load_cusolver()
    import keras
    import tensorflow as tf
if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"pixel_snail needs Keras on TensorFlow, but Keras already runs on {keras.backend.backend()}: set "
        "KERAS_BACKEND=tensorflow before Keras is imported"
    )


def _use_compilation_cache() -> None:
    """Uses the compilation cache, if the user asks for it."""
    if (xla_flags := compiled.xla_flags()) is not None:
        with _environment(TF_XLA_FLAGS=xla_flags):
            tf.config.optimizer.get_jit()  # TensorFlow reads the variable once, here


_use_compilation_cache()

_PROCESS = os.getpid()


def check_process() -> None:
    """Raises UserError in a forked process, if its parent imported TensorFlow: TensorFlow would hang."""
    if os.getpid() != _PROCESS:
        raise UserError(
            "TensorFlow can't compute in a forked process: start processes with multiprocessing.get_context('spawn')"
        )


__all__ = ["check_process", "keras", "tf"]
