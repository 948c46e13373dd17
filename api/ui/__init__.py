"""The pages, below ``/ui``."""
