"""Events out: what tells webhooks, Kafka and NATS of events of runs. ``publisher.py`` is where to begin reading."""
