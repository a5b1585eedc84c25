"""The reports folder that the report tests make by hand."""

from tests.report.conftest import folders

__all__ = ["folders"]
