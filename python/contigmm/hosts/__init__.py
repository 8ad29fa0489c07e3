"""Readers of real machines: each yields a :class:`contigmm.description.MachineDescription`."""
