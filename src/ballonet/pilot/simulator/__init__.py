"""The simulator: runs the policies' code with modelled guests on a modelled host. Deterministic; no I/O, no clock."""
