"""METRO for JAX: the 3D joints and mesh of a person from one image."""

__version__ = "0.1.0"
