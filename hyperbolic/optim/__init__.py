"""Riemannian optimisers and the curvature-aware step."""
