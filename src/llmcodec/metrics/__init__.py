"""Two signals, or two token sequences, make a number. Nothing here knows a codec or a clip."""
