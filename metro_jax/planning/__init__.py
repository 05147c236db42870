"""What a slice of chips will need, from compiled programs."""
