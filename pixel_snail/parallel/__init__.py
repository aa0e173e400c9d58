"""Devices, replicas and machines, which compute the batches."""
