"""Likelihood ratios (Ren et al. 2019), which detect images out of the distribution of a network's training images.

A network may give simple images, such as flat colours, a higher likelihood than its training images. A background
model, trained on mutated images (see storage/reductions.py), does so too, so that this effect cancels in the ratio.
"""

import numpy as np

from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError, option
from pixel_snail.inputs.splits import Array, Images, Labels, checked_split
from pixel_snail.model import leak_warning


class LikelihoodRatio:
    """Scores images by a model and a background model; `likelihood_ratio` makes it.

    A score is the log-likelihood of the image by the model minus that by the background model. A high score says that
    the image is like the model's training images; a low one, that it is out of their distribution.

    Attributes:
        model, background: the Distributions.
    """

    def __init__(self, model: Distribution, background: Distribution):
        self.model, self.background = model, background

    def score(
        self, images: Images, labels: Labels = None, condition: Array = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """The score of each image in nats, float64 [N].

        Args:
            images: values [N, H, W, C].
            labels: integers [N], for each network that is conditional on classes; another gets none.
            condition: one for each image, [N, ...], for each network that takes a condition; another gets none.
            batch_size: images computed at once by a replica.
            verbose: 0: no progress bars.

        Raises:
            UserError: the arguments do not have that form, or a likelihood is not finite.
        """
        settings = {"batch_size": batch_size, "verbose": verbose}
        of_model, of_background = (
            network.log_prob(split.images, split.labels, split.condition, **settings)
            for network, split in self._with_splits(images, labels, condition)
        )
        return of_model - of_background

    def scores_per_value(
        self, images: Images, labels: Labels = None, condition: Array = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """The part of each value in the score of its image, in nats, float32 [N, H, W, C]. Arguments as in score.

        The parts of an image sum to its score, to float32 rounding.
        """
        settings = {"batch_size": batch_size, "verbose": verbose}
        networks = self._with_splits(images, labels, condition)
        scores = np.zeros([len(networks[0][1]), *self.model.image_shape], np.float32)
        for sign, (network, split) in zip((-1, 1), networks, strict=True):
            first = 0
            for nats in network.nats_in_batches(split.images, split.labels, split.condition, **settings):
                scores[first : first + len(nats)] += sign * nats
                first += len(nats)
        return scores

    def _with_splits(self, images, labels, condition):
        """Each network, with the images, labels and conditions for it, which are checked before either computes."""
        networks = self.model, self.background
        labels = _for_each(labels, [network.nr_labels is not None for network in networks])
        condition = _for_each(condition, [network.condition is not None for network in networks])
        return [
            (network, checked_split(network.network.description, images, *given))
            for network, *given in zip(networks, labels, condition, strict=True)
        ]


def likelihood_ratio(model: Distribution, background: Distribution) -> LikelihoodRatio:
    """Scores by two networks, which detect images out of the distribution of the first one's training images.

    Args:
        model: a network that was trained on the images that count as in the distribution.
        background: one that was trained on the same images, Mutated. It may be smaller. Either
            of the two may be conditional, or both.

    Raises:
        UserError: an argument is no Distribution, or leaks; both are the same one; or they are over images of different
            shapes, numbers of levels or likelihoods.
    """
    names = option("model"), option("background")
    for name, network in zip(names, (model, background), strict=True):
        if not isinstance(network, Distribution):
            raise UserError(
                f"{name} must be a model from pixel_snail.load or pixel_snail.build, not {type(network).__name__}"
            )
        if not network.is_causal:
            raise UserError(f"{name}: {leak_warning(network.spec)}; take another network")
    if model is background:
        raise UserError(
            f"{names[0]} and {names[1]} are the same, so every score would be 0: give two networks, the second one "
            "trained with a mutation rate"
        )
    for what, ours, theirs in (
        ("shape", model.image_shape, background.image_shape),
        ("number of levels", model.levels, background.levels),
        ("likelihood", model.network.description.likelihood, background.network.description.likelihood),
    ):
        if ours != theirs:
            raise UserError(
                f"the {what} of {names[0]} is {ours}, that of {names[1]} {theirs}: train both on the same images, with "
                "the same likelihood"
            )
    return LikelihoodRatio(model, background)


def _for_each(given, taken):
    """What is given, for each network: None for one that does not take it. What neither takes is refused by both."""
    return [given if takes or not any(taken) else None for takes in taken]
