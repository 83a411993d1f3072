"""Copies the events that a sandbox's own process writes (:mod:`ballonet.machine.event_file`) to the registry."""

from __future__ import annotations

from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.machine.event_file import read_events


def copy_own_events(registry: Registry, record: Record) -> None:
    """Copy the events of the sandbox's own process that the registry does not have yet."""
    found = read_events(state_dir_of(record.name))
    if not found or found[-1]["id"] == record.events_seen:
        return
    with registry.transaction():
        rows = registry.execute(
            "SELECT events_seen, image, labels FROM sandboxes WHERE name = ? AND created_at = ?",
            [record.name, record.created_at],
        )
        if not rows:
            return
        seen, image, labels = rows[0]
        at = next((at for at, event in enumerate(found) if event["id"] == seen), -1)
        for event in found[at + 1 :]:
            facts = [event.get(name) for name in ("detail", "old_mib", "new_mib")]
            registry.execute(
                "INSERT INTO events (at, event, sandbox, image, labels, run_id, detail, old_mib, new_mib)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [float(event["at"]), event["event"], record.name, image, labels, event["run_id"], *facts],
            )
        registry.update(record.name, events_seen=found[-1]["id"])
