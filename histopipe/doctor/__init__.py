"""What could keep a checkout from working, in one table: `histopipe doctor`."""

from histopipe.doctor.examination import examine, severity
from histopipe.doctor.finding import Finding
from histopipe.doctor.mending import mend

__all__ = ["Finding", "examine", "mend", "severity"]
