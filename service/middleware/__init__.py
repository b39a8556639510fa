"""Layers around the application, outermost first: request context, authentication, body limit, admission."""
