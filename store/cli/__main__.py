"""`python -m store.cli` is the `store` command."""

from store.cli.main import main

main()
