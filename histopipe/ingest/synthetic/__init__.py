"""Data that the project draws itself, in the layouts of the real archives.

It lets every stage run on a machine with no data and no network, through the same code as the real archives: cases
whose stain and anatomy differ, odd names, cut edge patches, members that stand in the archive twice. One folder per
data set says what its cases are and draws them; what they share is here: the stains and textures of tissue, how
patches are shared out over cases, and the writing of the archive.
"""
