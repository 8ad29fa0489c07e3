"""Messages and stubs of ``contigmm.v1``, made from protos/ by scripts/generate: do not edit."""
