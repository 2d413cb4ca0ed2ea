"""`python -m bundler` is `bundle`."""

from bundler.cli.main import main

main()
