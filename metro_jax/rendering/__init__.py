"""Pictures and files of meshes; plain NumPy arrays in and out."""
