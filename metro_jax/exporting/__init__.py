"""Networks handed on: programs, weights, a page."""
