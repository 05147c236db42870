"""Files of strangers, read without running anything in them or trusting a claim."""
