"""The registry: what sandboxes there are, as one SQLite file of the user's."""
