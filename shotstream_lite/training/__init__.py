"""The paper's stages, a file each: teacher, causal initialisation, self-forcing within and across shots."""
