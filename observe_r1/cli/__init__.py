"""The `observe-r1` command: one thin file a verb."""
