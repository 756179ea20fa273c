"""What a codec is trained for: each objective returns named, unweighted terms."""
