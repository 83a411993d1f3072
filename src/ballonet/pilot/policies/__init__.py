"""Memory policies: pure functions from what is seen to what is to be done. No I/O, no clock, no randomness."""
