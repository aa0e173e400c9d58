"""PixelSNAIL (Chen, Mishra, Rohaninejad, Abbeel, ICML 2018) in TensorFlow 2 and Keras 3.

    import pixel_snail

    model = pixel_snail.load("data/save/demo")    # a folder with runs, or a checkpoint
    model.bits_per_dim(images)                    # values [N, H, W, C] -> float64 [N]
    model.sample(16)                              # [16, H, W, C]
    model.fit(images, epochs=3)                   # trains the network, here by fine-tuning
    model.network                                 # the keras.Model

`specs` has the specifications of the 17 networks by name; `build` makes an untrained network. `Binarized` and `Reduced`
show images with two, or with fewer levels, `Mutated` with some values replaced. `likelihood_ratio` scores images by two
networks. Mistakes raise UserError, a ValueError whose message says what to do.

TensorFlow is imported only when one of these names is first used, which takes seconds: commands report wrong flags
before. The classes of the networks are registered with Keras, for its .keras files, as soon as both packages are
imported, in any order.
"""

import importlib
import os
import sys

__version__ = "2.3"

_MODULES = {
    "Binarized": "pixel_snail.storage.reductions",
    "Distribution": "pixel_snail.distribution",
    "Mutated": "pixel_snail.storage.reductions",
    "Reduced": "pixel_snail.storage.reductions",
    "UserError": "pixel_snail.errors",
    "build": "pixel_snail.loading",
    "likelihood_ratio": "pixel_snail.out_of_distribution",
    "load": "pixel_snail.loading",
    "specs": "pixel_snail.model",
}

__all__ = ["Binarized", "Distribution", "Mutated", "Reduced", "UserError", "build", "likelihood_ratio", "load", "specs"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _KerasFinder:
    """Makes a later `import keras` run Keras on TensorFlow, and then import the networks, which registers them."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and "pixel_snail.backend" not in sys.modules:  # which imports Keras by itself
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._execute(execute, module)
        return spec

    def _execute(self, execute, module):
        before = os.environ.get("KERAS_BACKEND")
        os.environ["KERAS_BACKEND"] = "tensorflow"
        try:
            execute(module)
        finally:
            os.environ.pop("KERAS_BACKEND")
            if before is not None:
                os.environ["KERAS_BACKEND"] = before
        importlib.import_module("pixel_snail.model")


if "keras" in sys.modules:
    importlib.import_module("pixel_snail.model")
else:
    sys.meta_path.insert(0, _KerasFinder())
