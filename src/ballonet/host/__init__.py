"""What the host says (/proc, PSI, PSS) and enforces (cgroups)."""
