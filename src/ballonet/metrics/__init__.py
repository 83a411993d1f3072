"""What is known of sandboxes' memory: one model, used by every surface that shows it."""
