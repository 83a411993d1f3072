"""The ground under everything: errors, units, paths, processes. Knows nothing of sandboxes."""
