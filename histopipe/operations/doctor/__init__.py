"""What could keep a checkout from working, in one table: `histopipe doctor`."""
