"""Training of token LMs: the trainer, shards of the model, checkpoints for any number of ranks, rows of each."""
