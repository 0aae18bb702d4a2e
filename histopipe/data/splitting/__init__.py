"""Assign whole cases to train, validation and test.

Under every scheme but the tutorials' `random`, no case is in two splits: patches of one slide share stain, scanner and
tissue, so that a model that has seen some of them would be evaluated on memory (Roberts et al. 2021,
doi:10.1038/s42256-021-00307-0; Bussola et al. 2021, doi:10.1007/978-3-030-68763-2_11).
"""
