"""ShotStream as a plugin of Daydream Scope."""
