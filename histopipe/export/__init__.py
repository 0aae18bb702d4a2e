"""One file of a calibrated model for other runtimes: phones, browsers, servers without Keras.

A file takes raw uint8 patches and gives the calibrated probability; what it is stands inside and beside it. What the
format and its precision cost is measured on the test cases before anything is written.
"""
