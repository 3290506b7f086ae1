"""What notebooks show and check: how they begin, the running story, pictures, widgets, exercises, the blind study."""
