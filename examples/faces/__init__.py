"""The parts of ``examples/face_detect.py``: photos, detection, identification, the report."""
