"""Manifests, clips and the order in which training reads them."""
