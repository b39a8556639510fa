"""From a recipe and photos to a checkpoint."""
