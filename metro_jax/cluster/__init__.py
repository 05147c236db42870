"""Processes and devices that work together."""
