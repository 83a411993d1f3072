"""Images: from a reference to one read-only root file that all sandboxes of that image share."""
