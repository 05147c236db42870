"""How the package's assets were made."""
