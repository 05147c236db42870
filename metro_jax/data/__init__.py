"""Examples: their fields, formats, crops and batches."""
