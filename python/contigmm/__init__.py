"""Linux physical memory around contiguous allocation, simulated."""
