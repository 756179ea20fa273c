"""Files: audio, tensors, tokens and shards, written whole or not at all. Knows no codec and imports no torch."""
