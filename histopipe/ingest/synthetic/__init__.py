"""Synthetic data sets, which histopipe draws itself in the layouts of the real archives.

They let every stage run without data and network, through the same code as the real archives: cases with different
stains and anatomy, odd names, patches cut off at the edge, and second copies of members. One folder per data set plans
its cases and draws them. The modules here are shared: stains and textures of tissue, the distribution of patches over
cases, and the writing of the archive.
"""
