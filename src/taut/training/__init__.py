"""Training: the loop, its randomness and its checkpoints."""
