"""Lossless compression of images with a network: an entropy coder driven by the network's likelihood."""

PORTABLE = {
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type=",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Environment variables that make x86-64 processors with AVX2 round alike: XLA and oneDNN use no later instructions,
and XLA hands no sum to a library that chooses its instructions by the processor."""
