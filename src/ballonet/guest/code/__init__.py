"""Code sessions: the protocol of a session in the guest, and the programs that run code there."""
