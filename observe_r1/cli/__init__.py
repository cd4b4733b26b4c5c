"""The `observe-r1` command.

`commands` has one record per command; `main` finds the one that is meant, and `start` runs it: `words`, `options` and
`recipe` make its settings, `help` explains them. What a command does is in the room that it names, or in a file here.
"""
