"""The language-model side: a frozen backbone and its audio vocabulary."""
