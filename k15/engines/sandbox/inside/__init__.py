"""What runs inside a slot: Python's standard library and nothing else."""
