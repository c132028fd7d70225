"""The measurements behind the book's tables and figures."""
