"""Agreement with what real kernels did: programs of the oracle, logs of real processes."""
