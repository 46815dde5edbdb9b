"""The only place where rows meet training: Celery is the doorbell, SQL the queue, a child process does the work."""
