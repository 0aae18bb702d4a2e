"""Archive readers: list and read members in place, resolve links, enforce limits. Nothing is unpacked to disk."""
