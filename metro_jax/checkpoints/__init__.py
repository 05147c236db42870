"""What is kept of runs, and read back."""
