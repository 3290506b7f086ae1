"""How good is a film? Measured on held-out stories of the miniature world, with the probe as oracle."""
