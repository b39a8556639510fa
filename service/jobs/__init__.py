"""Long work in the background: a journal on the disk, threads that work it off, and what they can do."""
