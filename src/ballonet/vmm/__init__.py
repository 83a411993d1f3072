"""Virtual machines: their specification, the engine that runs them, the balloon. Imports no other package but base."""
