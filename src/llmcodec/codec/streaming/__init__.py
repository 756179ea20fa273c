"""Live streams and audio of any length, coded piece by piece."""
