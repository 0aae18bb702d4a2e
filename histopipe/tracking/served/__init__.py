"""The served model: one network file of stock layers, and the code that runs it."""
