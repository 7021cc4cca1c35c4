"""``python -m cryolike``."""

from cryolike.cli.main import main

main()
