"""Photos by URL, from public addresses only."""
