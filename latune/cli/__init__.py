"""The command line: one module a command, ``main`` ties them together."""
