"""Datasets from rows: built in parallel, resumable, read back."""
