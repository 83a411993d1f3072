"""The sandbox's own process: supervises one VM and serves its sockets."""
