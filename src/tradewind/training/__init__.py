"""Training of a decoder: data packed into rows, losses, one loop, checkpoints, a mesh. Knows no stage and no tracking."""
