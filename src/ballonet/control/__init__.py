"""The control socket: its protocol (pure), its server and its client."""
