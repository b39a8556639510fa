"""Layers on the hyperboloid."""
