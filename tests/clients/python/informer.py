"""informer.py KUBECONFIG NAMESPACE RECORD: follows ConfigMaps and Widgets by the Python client's informer.

What it is told goes to RECORD, a line of JSON each; what is in its caches at the end, when it is told to stop, too."""
import functools
import json
import signal
import sys
import threading
import types

import urllib3
from kubernetes import client, config
from kubernetes.informer import ADDED, DELETED, MODIFIED, SharedInformer

GROUP, VERSION, PLURAL = "clients.example.com", "v1", "widgets"
SELECTOR = "followed=yes"

kubeconfig, namespace, path = sys.argv[1:]
record, writing = open(path, "a", buffering=1), threading.Lock()


def tell(**line):
    with writing:
        record.write(json.dumps(line) + "\n")


def facts(kind, thing):
    """What both forms of objects say: those with a model and those without."""
    if isinstance(thing, dict):
        meta, n = thing["metadata"], int((thing.get("spec") or thing.get("data"))["n"])
        return {"kind": kind, "name": meta["name"], "uid": meta["uid"], "version": meta["resourceVersion"], "n": n}
    meta, n = thing.metadata, int(thing.data["n"])
    return {"kind": kind, "name": meta.name, "uid": meta.uid, "version": meta.resource_version, "n": n}


def counted(kind, listed):
    """The same function, with a word about each list: a watch that goes on where it was needs none."""
    @functools.wraps(listed)
    def list_or_watch(**arguments):
        if not arguments.get("watch"):
            tell(event="list", kind=kind)
        return listed(**arguments)
    return list_or_watch


def list_widgets(**arguments) -> object:
    answer = custom.list_namespaced_custom_object(group=GROUP, version=VERSION, plural=PLURAL, **arguments)
    if arguments.get("watch"):
        return answer
    # The informer wants of a list what lists with a model have.
    metadata = types.SimpleNamespace(resource_version=answer["metadata"]["resourceVersion"])
    return types.SimpleNamespace(items=answer["items"], metadata=metadata)


settings = client.Configuration()
config.load_kube_config(kubeconfig, client_configuration=settings)
# While no server listens: the informer itself makes no pauses.
settings.retries = urllib3.Retry(total=50, backoff_factor=0.05, backoff_max=0.2)
api = client.ApiClient(settings)
core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)

informers = {}
for kind, listed in (("ConfigMap", core.list_namespaced_config_map), ("Widget", list_widgets)):
    informer = SharedInformer(counted(kind, listed), namespace=namespace, label_selector=SELECTOR)
    for event, word in ((ADDED, "set"), (MODIFIED, "set"), (DELETED, "gone")):
        informer.add_event_handler(event, lambda it, kind=kind, word=word: tell(event=word, **facts(kind, it)))
    informers[kind] = informer
    informer.start()

stopped = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stopped.set())
stopped.wait()
for kind, informer in informers.items():
    for it in informer.cache.list():
        tell(event="has", **facts(kind, it))
tell(event="end")
