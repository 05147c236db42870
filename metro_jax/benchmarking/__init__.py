"""Times what a user runs, and says what limits it."""
