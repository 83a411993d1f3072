"""QEMU as the engine: found and probed, its command line, its monitor, its process."""
