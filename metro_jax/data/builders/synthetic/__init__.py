"""The synthetic dataset: dressed, posed humans that we draw ourselves."""
