"""The sandboxes of a user: the registry; create, start, stop, remove and modify them; volumes."""
