"""The guest side: kernel, initramfs, the agent (PID 1 of the guest) and the protocol spoken with it."""
