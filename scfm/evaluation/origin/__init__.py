"""Where an embedding comes from: its backbones, and whether its training saw the cells."""
