"""The deployable model: encode speech to tokens, decode tokens to speech."""
