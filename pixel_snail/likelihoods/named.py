"""The likelihoods by the names that --likelihood takes."""

from types import ModuleType

from pixel_snail.errors import UserError, option
from pixel_snail.likelihoods import categorical, logistic_mixture
from pixel_snail.settings import LIKELIHOODS

likelihoods: dict[str, ModuleType] = dict(zip(LIKELIHOODS, (logistic_mixture, categorical), strict=True))
"""Each has loss_per_image(x, outputs, levels) and nats_per_value(x, outputs, levels)."""


def check_likelihood(likelihood: object, channels: int) -> None:
    """Raises UserError if the likelihood is unknown, or is not for images with this number of channels."""
    if likelihood not in LIKELIHOODS:
        raise UserError(f"{option('likelihood')}={likelihood!r} is none of {', '.join(LIKELIHOODS)}")
    if likelihood == "categorical" and channels != 1:
        raise UserError(
            f"{option('likelihood')}=categorical is for maps of codes, which have 1 channel, not {channels}: divide "
            f"the channels into separate maps, or leave {option('likelihood')} out"
        )
