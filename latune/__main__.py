"""``python -m latune`` is ``latune``."""

from latune.cli.main import main

main()
