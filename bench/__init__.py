"""Measurements of Sekali and its peers: load from another process, every answer checked against what was stored."""
