"""Experiments: what an interface or a policy does to everyone else."""
