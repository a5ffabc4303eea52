"""An operator by kopf: says in each Widget's status which number it has handled, and lets it go when it is deleted.

Each call of a handler goes to the file that RECORD names, a line of JSON each. Run by `kopf run`."""
import json
import os

import kopf

RESOURCE = ("clients.example.com", "v1", "widgets")
record = open(os.environ["RECORD"], "a", buffering=1)


def tell(event, name, uid, spec):
    record.write(json.dumps({"event": event, "kind": "Widget", "name": name, "uid": uid, "n": spec["n"]}) + "\n")


@kopf.on.startup()
def configure(settings, **_):
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage()
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage()
    # While no server listens, for as long as that may be.
    settings.networking.error_backoffs = [0.2] * 300


@kopf.on.create(*RESOURCE)
def create(name, uid, spec, patch, **_):
    tell("create", name, uid, spec)
    patch.status["seen"] = spec["n"]


@kopf.on.update(*RESOURCE, field="spec")
def update(name, uid, spec, patch, **_):
    tell("update", name, uid, spec)
    patch.status["seen"] = spec["n"]


@kopf.on.delete(*RESOURCE)
def delete(name, uid, spec, **_):
    tell("delete", name, uid, spec)
