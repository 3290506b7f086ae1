"""What `shotstream` can do, a file a subcommand. Heavy imports wait until one runs, so that complaints come at once."""
