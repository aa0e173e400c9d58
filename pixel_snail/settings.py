"""The settings of networks and of training: defaults and allowed values. TensorFlow is not imported."""

import dataclasses
import math

from pixel_snail.errors import UserError, check_option, is_number, is_whole, option, plain

LIKELIHOODS = ("logistic_mixture", "categorical")
"""The names that --likelihood takes, the original's first; likelihoods/ has a module of each name."""

CONDITION_RESNET = 2
"""The default of --condition_resnet: the residual blocks that a condition's map goes through."""

NETWORK_DEFAULTS = {
    "model": "h12_noup_smallkey",
    "nr_resnet": 4,
    "nr_filters": 256,
    "nr_logistic_mix": 10,
    "resnet_nonlinearity": "elu",
    "likelihood": LIKELIHOODS[0],
}
"""The settings of networks, by the names of their flags, and the defaults of the original's command line."""

MODELS = (
    "model",
    "h6_noup",
    "h6_noup_hier2",
    "h6_hier4",
    "h6_1mixhier2",
    "h8_noup_124444mix",
    "h16_noup_124444mix",
    "h6_noup_124mix_halfattn",
    "h6_noup_1mix_halfattn",
    "h8_noup_1mix_halfattn",
    "h12_noup_smallkey",
    "h12_pool2_smallkey",
    "h8_noup_smallkey",
    "h8_noup_smallkey_ar_chs",
    "h6_shift",
    "h6_shift_small_attn",
    "pxpp",
)
"""The names that --model takes; the specification of NAME is NAME_spec in model.py."""

NONLINEARITIES = ("concat_elu", "elu", "relu")
"""The names that --resnet_nonlinearity takes; nn.nonlinearities has the functions, in this order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings of a training: train.py's flags of these names, with their defaults.

    Raises:
        UserError: a value is not allowed.
    """

    batch_size: int = 8
    init_batch_size: int = 8
    learning_rate: float = 1e-3
    lr_decay: float = 0.999998
    lr_to_zero: bool = False
    muon: bool = False
    polyak_decay: float = 0.9995
    grad_accum: int = 1
    bfloat16: bool = False
    recompute: bool = False
    skip_nonfinite: int = 0
    average_machines: bool = False
    seed: int = 42

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        for name in ("batch_size", "init_batch_size", "grad_accum"):
            check_option(name, getattr(self, name), is_whole(getattr(self, name), least=1), "a whole number above 0")
        for name in ("lr_to_zero", "muon", "bfloat16", "recompute", "average_machines"):
            check_option(name, getattr(self, name), isinstance(getattr(self, name), bool), "True or False")
        for name in ("skip_nonfinite", "seed"):
            is_possible = is_whole(getattr(self, name), least=0) and getattr(self, name) < 2**31
            check_option(name, getattr(self, name), is_possible, "a whole number from 0 to 2^31 - 1")
        for name in ("learning_rate", "lr_decay"):
            value = getattr(self, name)
            check_option(name, value, is_number(value) and 0 < value < math.inf, "a number above 0")
        check_option(
            "polyak_decay", self.polyak_decay, is_number(self.polyak_decay) and 0 <= self.polyak_decay < 1, "in [0, 1)"
        )
        if self.batch_size % self.grad_accum:
            raise UserError(
                f"{option('batch_size')}={self.batch_size} can't be cut into {option('grad_accum')}={self.grad_accum} "
                f"equal parts: choose a divisor of {option('batch_size')}"
            )
