"""Recorded runs of real kernels, asked again of a simulated machine that began as they did."""
