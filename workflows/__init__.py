"""The one generic workflow, which drives a run; nothing here decides anything."""
