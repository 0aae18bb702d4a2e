"""Check that no command overwrites files of others."""
