"""The HTTP floor: the only one that knows FastAPI."""
