"""The one durable thing."""
