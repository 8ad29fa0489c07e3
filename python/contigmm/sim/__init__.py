"""Machine and Process: the simulator as one object that executes operations."""
