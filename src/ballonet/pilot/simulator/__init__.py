"""The simulator: the policies' own code against modelled guests on a modelled host. Deterministic; no I/O, no clock."""
