"""What every package uses: errors, units, paths, processes. Knows nothing of sandboxes."""
