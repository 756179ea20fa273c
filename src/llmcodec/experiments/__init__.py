"""Whole experiments as functions: the quickstart, the comparison, the sweep."""
