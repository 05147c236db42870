"""Weights of others, from any file, without running anything in it."""
