"""The system calls: one file each, each check a line with its Reason, in the kernel's order."""
