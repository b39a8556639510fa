"""REST over an encoder and its collections."""
