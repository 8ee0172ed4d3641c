"""Fair comparisons of heads: recipe, data, training loop, checkpoints and report."""
