"""PixelSNAIL (Chen, Mishra, Rohaninejad, Abbeel, ICML 2018) in TensorFlow 2 and Keras 3.

    import pixel_snail

    model = pixel_snail.load("data/save/demo")    # a folder with runs, or a checkpoint
    model.bits_per_dim(images)                    # uint8 [N, H, W, 3] -> float64 [N]
    model.sample(16)                              # uint8 [16, H, W, 3]
    model.network                                 # the keras.Model

`specs` has the specifications of the 17 networks by name, `build` makes an untrained one. Mistakes raise UserError, a
ValueError whose message says what to do. TensorFlow is imported when one of these names is first used.
"""

import importlib

_MODULES = {
    "Distribution": "pixel_snail.distribution",
    "UserError": "pixel_snail.errors",
    "build": "pixel_snail.distribution",
    "load": "pixel_snail.distribution",
    "specs": "pixel_snail.model",
}

__all__ = ["Distribution", "UserError", "build", "load", "specs"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
