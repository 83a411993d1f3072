"""Many hosts: which of them a sandbox is placed on, by the memory that they can really promise."""
