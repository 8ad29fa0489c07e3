"""The gRPC service of contigmm."""
