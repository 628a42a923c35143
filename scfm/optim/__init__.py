"""Parameter groups, optimizers and schedules that torch does not have."""
