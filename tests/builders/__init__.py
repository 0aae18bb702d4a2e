"""What tests build on: images, archives, stores, models, servers and checkouts, made to order."""
