"""One small protocol over our codec and other people's."""
