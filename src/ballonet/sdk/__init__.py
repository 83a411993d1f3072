"""What a program holds: a sandbox, its balloon, its commands; for asyncio and without."""
