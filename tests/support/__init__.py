"""What several test files share: event builders, the plain model, the history checker, server processes."""
