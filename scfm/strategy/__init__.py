"""How the work is divided over devices, where Lightning's own strategies need help."""
