"""Memory policies: pure functions from observations to decisions. No I/O, no clock, no randomness."""
