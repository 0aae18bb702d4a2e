"""Names of the data sets that need no manifest; `histopipe.ingest.datasets` declares what each of them is."""

KNOWN_DATASETS = ("breakhis", "idc", "malaria")
MAGNIFIED_DATASETS = frozenset(
    {"breakhis"}
)  # published at several magnifications, of which params.yaml may ask for one
