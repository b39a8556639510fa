"""What keeps the service up, bounded and watched."""
