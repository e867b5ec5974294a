"""What is measured: Sekali, the yardstick, and the peers."""
