"""`python -m supercloud.cli`."""

from supercloud.cli.main import main

main()
