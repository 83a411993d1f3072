"""Modelled guests that are paused: they hold no memory of the host, and their next work resumes them."""

from __future__ import annotations

from ballonet.pilot.simulator.guest import Guest


class PausedGuests:
    """The guests of a simulation that are paused."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, guest: Guest) -> bool:
        return guest.spec.name in self._names

    def pause(self, guest: Guest) -> None:
        """Its caches and its freed memory are not saved."""
        guest.once = guest.hot = guest.fragments = guest.loose = guest.drop_left = 0.0
        self._names.add(guest.spec.name)

    def stays(self, guest: Guest, at_s: float) -> bool:
        """Whether it is paused, and goes on being so. It is resumed by its next work, which waits for that."""
        if guest not in self:
            return False
        if at_s < guest.next_at:
            return True
        self._names.remove(guest.spec.name)
        saved_mib = guest.kernel + guest.anon
        guest.debt_s += guest.physics.resume_s + saved_mib / guest.physics.restore_mib_s
        return False
