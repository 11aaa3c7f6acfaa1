"""The human body: model, files, joints, and drawing it over a picture."""
