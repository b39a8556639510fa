"""The encoder in a process of its own: a decoder that crashes takes a worker with it, not the service."""
