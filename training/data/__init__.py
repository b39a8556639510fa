"""Data sets, one file each, and how batches are drawn from them."""
