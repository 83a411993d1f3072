"""The HTTP server: a client of the SDK and of ``lifecycle/``, like the command line. It has no state of sandboxes."""
