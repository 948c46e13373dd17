"""The REST API: one router per resource; ``app.create_app`` puts it together."""
