"""What a sandbox can be: its configuration, what each setting is called where, and the flags that carry it."""
