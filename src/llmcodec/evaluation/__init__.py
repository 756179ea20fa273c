"""How good a codec and its tokens are."""
