"""The settings of a sandbox: their declaration, the configuration that they make up, and the flags that carry it."""
