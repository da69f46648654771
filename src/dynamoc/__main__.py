"""`python -m dynamoc` is the command line."""

from dynamoc.launcher.cli import main

main()
