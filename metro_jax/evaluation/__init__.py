"""Errors as papers give them, exact over any devices."""
