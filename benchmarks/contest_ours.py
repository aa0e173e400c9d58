"""A network of this project, trained as train.py trains it, for contest.py."""

import numpy as np

from benchmarks import contest
from pixel_snail import sampling, steps
from pixel_snail.backend import tf
from pixel_snail.model import build_network, specs
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import replicas
from pixel_snail.pixel_cnn_pp import PixelCNNpp
from pixel_snail.weights import normalised_weights


class OurNetwork:
    """The network that `pixel_snail.model.build_network` makes from the settings.

    "sizes" is the number of sizes of a PixelCNN++'s maps, by default 3. "to_draw" is for drawing only: the cores are
    then not prepared for micro-batches.
    """

    def __init__(self, settings: dict):
        self.image_shape = np.load(settings["train"], mmap_mode="r").shape[1:]
        self.strategy = replicas.strategy(1, in_micro_batches=not settings.get("to_draw"))
        if sizes := settings.get("sizes"):
            specs["pxpp"] = type("PixelCNNpp", (PixelCNNpp,), {"sizes": sizes, "size_multiple": 2 ** (sizes - 1)})
        names = ("model", "nr_resnet", "nr_filters", "nr_logistic_mix", "resnet_nonlinearity", "dropout_p")
        self.model = build_network(**{name: settings[name] for name in names}, image_shape=self.image_shape)
        self.has_average = "polyak_decay" in settings
        self.optimizer = PolyakAdam(polyak_decay=settings.get("polyak_decay", 0.9995))
        self._evaluator = steps.Evaluator(self.strategy, self.model)

    def parameters(self) -> tuple[int, int]:
        number = sum(variable.value.shape.num_elements() for variable in self.model.trainable_variables)
        return number, number

    def initialise(self, images):
        steps.initialise(self.model, {"images": images}, seed=1)
        self.optimizer.build(self.model.trainable_variables)
        self._step = steps.train_step(self.strategy, self.model, self.optimizer, seed=1)

    def step(self, images):
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
        self._draw = sampling.batch_drawer(self.model, number)
        self.draw(number)

    def draw(self, number):
        weights = normalised_weights(self.model, self.model.trainable_variables)
        uniforms = sampling.uniforms(0, 0, number, self.image_shape, self.model.description.nr_logistic_mix)
        self._draw(weights, *uniforms)


if __name__ == "__main__":
    contest.serve(OurNetwork)
