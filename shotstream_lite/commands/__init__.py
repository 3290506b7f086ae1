"""The subcommands of `shotstream`. Heavy imports wait until one runs, so that complaints come at once."""
