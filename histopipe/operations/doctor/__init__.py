"""What could keep a checkout from working, in one table: `histopipe doctor`."""

from histopipe.operations.doctor.examination import examine, severity
from histopipe.operations.doctor.finding import Finding
from histopipe.operations.doctor.mending import mend

__all__ = ["Finding", "examine", "mend", "severity"]
