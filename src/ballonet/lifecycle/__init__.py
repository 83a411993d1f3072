"""What sandboxes there are and how they live: the registry, create, start, stop, remove, modify, volumes."""
