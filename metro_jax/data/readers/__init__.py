"""Datasets as their owners publish them, read row by row."""
