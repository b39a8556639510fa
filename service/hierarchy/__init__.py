"""The tree over a served collection."""
