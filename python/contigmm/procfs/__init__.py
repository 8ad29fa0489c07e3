"""The kernel's /proc text, byte for byte: of processes and of zones."""
