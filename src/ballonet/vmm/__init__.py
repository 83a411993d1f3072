"""The engine: QEMU, its balloon and its statistics. Imports no other package of ballonet."""
