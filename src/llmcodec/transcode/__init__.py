"""Audio to tokens and back for the commands: batching, token files, streams. Does not import torch itself."""
