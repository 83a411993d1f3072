"""The host: what /proc reports (memory, pressure, processes), and cgroups, mounts and systemd scopes."""
