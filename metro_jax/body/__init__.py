"""The articulated mesh; knows nothing of images or networks."""
