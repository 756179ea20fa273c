"""Audio to tokens and back, as commands: runtimes, batching, token files, streams. Imports no torch by itself."""
