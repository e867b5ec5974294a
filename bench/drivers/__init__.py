"""Load for peers that do not speak HTTP: one driver each, run as a process of its own."""
