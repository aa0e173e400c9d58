"""What decides a network's structure: the defaults and the possible names. Known without importing TensorFlow."""

NETWORK_DEFAULTS = {
    "model": "h12_noup_smallkey",
    "nr_resnet": 4,
    "nr_filters": 256,
    "nr_logistic_mix": 10,
    "resnet_nonlinearity": "elu",
}
"""The defaults of the original's command line, by the names of its flags."""

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
