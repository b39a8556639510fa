"""The ground floor: geometry, layers, optimisers, models, and the way from images to points."""
