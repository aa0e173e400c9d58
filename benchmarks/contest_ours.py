"""A network of this project, trained as train.py trains it, for contest.py."""

import numpy as np

from benchmarks import contest
from pixel_snail import sampling, steps
from pixel_snail.backend import tf
from pixel_snail.model import build_network, specs
from pixel_snail.optimizer import PolyakAdam, cosine_annealing
from pixel_snail.parallel import replicas
from pixel_snail.pixel_cnn_pp import PixelCNNpp
from pixel_snail.settings import NETWORK_DEFAULTS
from pixel_snail.weights import normalised_weights


class OurNetwork:
    """The network that `pixel_snail.model.build_network` makes from the settings.

    "sizes" is the number of sizes of a PixelCNN++'s maps, by default 3. "to_draw" is for drawing only: the cores are
    then not prepared for micro-batches. With "lr_to_zero", the learning rate falls to 0 by the end of the training.
    """

    def __init__(self, settings: dict):
        self.image_shape = np.load(settings["train"], mmap_mode="r").shape[1:]
        self.strategy = replicas.strategy(1, in_micro_batches=not settings.get("to_draw"))
        if sizes := settings.get("sizes"):
            specs["pxpp"] = type("PixelCNNpp", (PixelCNNpp,), {"sizes": sizes, "size_multiple": 2 ** (sizes - 1)})
        names = (*NETWORK_DEFAULTS, "dropout_p", "levels")
        of_network = {name: settings[name] for name in names if name in settings}
        self.model = build_network(**of_network, image_shape=self.image_shape)
        self.lr_to_zero = settings.get("lr_to_zero", False)
        self.has_average = "polyak_decay" in settings
        of_optimizer = {name: settings[name] for name in ("learning_rate", "polyak_decay") if name in settings}
        self.optimizer = PolyakAdam(**{"polyak_decay": 0.9995} | of_optimizer)
        self._evaluator = steps.Evaluator(self.strategy, self.model)

    def parameters(self) -> tuple[int, int]:
        number = sum(variable.value.shape.num_elements() for variable in self.model.trainable_variables)
        return number, number

    def initialise(self, images):
        steps.initialise(self.model, {"images": images}, seed=1)
        self.optimizer.build(self.model.trainable_variables)
        self._step = steps.train_step(self.strategy, self.model, self.optimizer, seed=1)

    def step(self, images, done=0.0):
        if self.lr_to_zero:
            self.optimizer.lr_factor.assign(cosine_annealing(done))
        float(self._step({"images": tf.constant(images)}))

    def prepare(self):
        parameters = self.optimizer.averages() if self.has_average else self.model.weights
        self._weights = self._evaluator.prepared(parameters)

    def nats(self, images):
        return self._evaluator.nats({"images": tf.constant(images)}, self._weights).numpy().sum((1, 2, 3))

    def outputs(self, images):
        outputs = self.model(steps.network_inputs({"images": images}, self.model.description)[0])
        return np.concatenate(outputs, -1) if isinstance(outputs, tuple) else outputs.numpy()

    def compile_drawing(self, number):
        self._draw = sampling.drawer(self.model)
        self.draw(number)

    def draw(self, number):
        self._draw(normalised_weights(self.model, self.model.trainable_variables), number, seed=0, verbose=0)


if __name__ == "__main__":
    contest.serve(OurNetwork)
