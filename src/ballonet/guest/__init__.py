"""The guest: its kernel, its initramfs, its agent (PID 1) and the protocol between host and agent."""
