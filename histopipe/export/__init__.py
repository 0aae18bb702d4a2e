"""Export of a calibrated model into one file for other runtimes: phones, browsers, servers without Keras.

The file takes raw uint8 patches and returns calibrated probabilities. It contains its own description, which is also
written next to it as JSON. What the format and its precision cost is measured on the test cases before anything is
written.
"""
