"""Devices, replicas and machines: where a batch is computed."""
