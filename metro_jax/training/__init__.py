"""What learns: losses, optimizer, state, step, and its log."""
