"""The autopilot: host-wide policies (pure), the loop that carries them out, and the simulator that tries them."""
