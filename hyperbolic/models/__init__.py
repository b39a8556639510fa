"""Encoders: a backbone and its neck."""
