"""PixelSNAIL (Chen, Mishra, Rohaninejad, Abbeel, ICML 2018) in TensorFlow 2 and Keras 3.

    import pixel_snail

    model = pixel_snail.load("data/save/demo")    # a folder with runs, or a checkpoint
    model.bits_per_dim(images)                    # uint8 [N, H, W, 3] -> float64 [N]
    model.sample(16)                              # uint8 [16, H, W, 3]
    model.network                                 # the keras.Model

`specs` has the specifications of the 17 networks by name, `build` makes an untrained one. Mistakes raise UserError, a
ValueError whose message says what to do.
"""

from pixel_snail import backend

backend.import_tensorflow()

from pixel_snail.distribution import Distribution, build, load  # noqa: E402
from pixel_snail.errors import UserError  # noqa: E402
from pixel_snail.model import specs  # noqa: E402

__all__ = ["Distribution", "UserError", "build", "load", "specs"]
