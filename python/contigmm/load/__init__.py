"""The load generator: many simulated processes, driven over gRPC, contend for one machine."""
