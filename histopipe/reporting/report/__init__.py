"""A comparison as one web page that needs nothing but itself."""
