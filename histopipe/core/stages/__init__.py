"""Run stages as processes: hold a lock, record the inputs, detect changes of them, and record failures."""
