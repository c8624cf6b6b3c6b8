"""Training: the loop, its steps (eager or compiled), its pace and its checkpoints."""
