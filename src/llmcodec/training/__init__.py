"""Training: recipe, objective, trainer, checkpoint, tracking."""
