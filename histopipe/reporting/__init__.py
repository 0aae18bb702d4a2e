"""What people read: the comparison of architectures and the report's page."""
