"""A network in use: photographs in, people out."""
