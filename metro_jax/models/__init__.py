"""The network, what goes into it and what it is compared with."""
