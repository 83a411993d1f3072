"""A sandbox's own process: it supervises one VM and serves its sockets."""
