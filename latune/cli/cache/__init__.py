"""``latune cache``: what is done to cache files themselves, one module a command."""
