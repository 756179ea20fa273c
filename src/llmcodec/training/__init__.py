"""Recipes, the training step, checkpoints and tracking."""
