"""States of a language model while it writes token after token."""
