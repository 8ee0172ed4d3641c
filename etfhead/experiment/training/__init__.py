"""One arm with one seed: model, loop, checkpoints, and what came out."""
